"""How a block format goes into integer dot products: what its declaration says of scales, minima and signs."""

from __future__ import annotations

from typing import Any

import tvm_ffi

from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.integer_dot import FOUR, IntegerDot
from aprgraph.codegen.kernels.cpu.rows_of_block import Quants, RowsOfBlock, Run
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.tir import Expr, i64
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.roundings import ROUNDINGS

#: Elements that follow each other in one round of partial sums, and how many of these there are.
WIDTH, SUMS = 32, 8

#: Formats of which ggml takes the offset of elements off by sums of x, and multiplies unsigned numbers.
_OFFSET_BY_SUMS = ("Q6_K",)
#: Formats that llama.cpp lays out by eight rows, with AVX2, when it loads a weight that has so many or a multiple. Products of a block
#: are then one whole number.
_REPACKED, _REPACKED_ROWS = ("Q4_0", "IQ4_NL", "MXFP4", "Q4_K"), 8
#: Formats of which ggml adds the minima of a block up to one whole number.
_MINIMA_AS_ONE = ("Q5_K",)

#: Positions that meet a tile at once where they have one sum each: the tile is read once for them.
_POSITIONS_OF_ONE_SUM = 4


class BlockPlan:
    """What is known of all blocks of ``weight`` when the kernel is written.

    ``offset`` is by how much weights are more than they are, in products; ``offset_of_runs`` that which is taken off whole runs.
    ``groups`` of 32 elements in a block; ``scales_in_group``: 0 where the block has one scale, else 1, or 2 for each 16 elements.
    ``elements_of_sums`` is how many quants of x are summed for a minimum or an offset, 0 for none. ``sums_of_minima`` is how many partial
    sums minima have; where these are not apart, they are among those of the products.
    """

    def __init__(self, emitter: Emitter, dot: IntegerDot, weight: Weight, scheme: str) -> None:
        self.weight, name = weight, weight.format.name
        reader = RowsOfBlock(emitter, dot, weight, [i64(0)] * dot.rows, i64(0), hold=lambda vector: vector)
        runs = reader.runs()
        self.groups = len(runs) * RUN // WIDTH
        first = runs[0].scaled
        assert first.quants is not None
        self.negative = first.negative
        whole = [run.scaled.whole for run in runs]
        self.scales_in_group = 0 if first.whole is None else 1 if _are_alike_by_twos(whole) else 2
        self.offset_of_runs = first.quants.offset if name in _OFFSET_BY_SUMS else 0
        signed = first.quants.signed and not self.offset_of_runs
        self.offset = dot.offset(signed, first.quants.offset, bool(self.scales_in_group))
        self.signed = signed and not self.offset
        self.takes_unsigned = bool(first.quants.unsigned) and first.quants.offset in (self.offset, self.offset_of_runs)
        #: The sum of four products, with x of 7 bits.
        self.is_short = 4 * 127 * self._most(first.quants) < 1 << 15
        self.has_minima = runs[0].minimum is not None
        self.minima_negative = runs[0].minimum is not None and runs[0].minimum.negative
        self.keeps_sums = ROUNDINGS[scheme].sum_errors is not None
        each = self._elements_of_minima(runs)
        self.is_one_sum = name in _REPACKED and weight.rows % _REPACKED_ROWS == 0
        self.elements_of_offset = WIDTH if self.is_one_sum else FOUR
        #: How many partial sums an output has.
        self.sums = 1 if self.is_one_sum else SUMS
        #: Whether all products of 32 elements add up to less than 2^15, by pairs.
        self.is_tiny = 2 * SUMS * 127 * self._most(first.quants) < 1 << 15 and not self.signed
        self.elements_of_sums = RUN if self.offset_of_runs else 0 if self.keeps_sums else each
        # Minima of 16 elements have as many partial sums as products, and are among these.
        self.has_sums_of_minima = self.has_minima and each > RUN
        self.sums_of_minima = (
            1 if self.keeps_sums or self.is_one_sum or name in _MINIMA_AS_ONE or not each else weight.format.elements // each // 2
        )
        #: As many as leave their partial sums in registers.
        self.positions_together = max(1, (emitter.cpu.registers - 8) // (SUMS * max(1, dot.rows // emitter.lanes)))
        if self.is_one_sum:
            self.positions_together = _POSITIONS_OF_ONE_SUM

    def _most(self, quants: Quants) -> int:
        return quants.most + quants.offset if self.takes_unsigned else quants.most

    @staticmethod
    def _elements_of_minima(runs: list[Run]) -> int:
        """How many elements of a block share a minimum; 0 where none is added."""
        minima = [run.minimum.whole for run in runs if run.minimum is not None]
        if not minima:
            return 0
        return WIDTH if _are_alike_by_twos(minima) else RUN


def _are_alike_by_twos(values: list[Any]) -> bool:
    return all(map(_are_alike, values[::2], values[1::2]))


def _are_alike(a: Expr | None, b: Expr | None) -> bool:
    """Whether two expressions are one."""
    return a is b or bool(tvm_ffi.structural_equal(a, b))
