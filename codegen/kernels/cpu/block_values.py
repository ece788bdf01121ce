"""The values of a block of several rows, as the integer products ask for them: as they are read, or kept for many positions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cpu.block_plan import SUMS, BlockPlan
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.integer_dot import FOUR, IntegerDot, Weights
from aprgraph.codegen.kernels.cpu.rows_of_block import STEPS, Product, RowsOfBlock, Run, same_byte
from aprgraph.codegen.kernels.cpu.vectors import dtype_of, hold, lanes_of
from aprgraph.codegen.kernels.cpu.weights import LINE
from aprgraph.codegen.tir import Buffer, Expr, i64, scratch


class BlockValues(ABC):
    """Values of one block after the other, a row in each lane."""

    @abstractmethod
    def begin(self, index: Expr) -> None:
        """Block ``index`` is meant from here on."""

    @abstractmethod
    def each_group(self, body: Callable[[Expr], None]) -> None:
        """Emit ``body`` for each 32 elements of the block."""

    @abstractmethod
    def prefetch(self, group: Expr, number: int) -> None:
        """Ask the memory for a share of what is read later; called before ``weights`` of the same elements."""

    @abstractmethod
    def weights(self, group: Expr, number: int) -> Weights:
        """Elements 4 · ``number`` to 4 · ``number`` + 3 of a group."""

    @abstractmethod
    def scale(self, group: Expr, number: int) -> Expr:
        """What their products are multiplied by, as the dot product takes it."""

    @abstractmethod
    def scale_pairs(self, number: int) -> Expr:
        """The scales of runs 2 · ``number`` and the next, as two i16 in an i32."""

    @abstractmethod
    def real(self) -> Expr:
        """What all whole numbers of the block are multiplied by, f32."""

    @abstractmethod
    def minimum(self) -> Expr:
        """What all minima of the block are multiplied by, f32."""

    @abstractmethod
    def minimum_pairs(self, number: int) -> Expr:
        """Minima 2 · ``number`` and the next, as two i16 in an i32."""


class FreshBlock(BlockValues):
    """As they are read: each is asked for once. ``hold`` is given what is read several times."""

    def __init__(
        self, emitter: Emitter, dot: IntegerDot, plan: BlockPlan, rows: Sequence[Expr], hold: Callable[[Expr], Expr] = hold
    ) -> None:
        self._emitter, self._dot, self._plan, self._rows, self._hold = emitter, dot, plan, rows, hold
        self._index, self._asked = i64(0), 0
        self._runs: list[Run] = []

    def prefetch(self, group: Expr, number: int) -> None:
        """See ``BlockValues.prefetch``: what the next tile reads here. The processor follows a few rows by itself, but not so many."""
        count = len(self._rows)
        lines = [(self._rows[0] + (count + r), line) for line in range(self._plan.weight.lines) for r in range(count)]
        upto = (int(group) * SUMS + number + 1) * len(lines) // (self._plan.groups * SUMS)
        for row, line in lines[self._asked : upto]:
            self._plan.weight.prefetch(row, self._index, i64(line * LINE))
        self._asked = upto

    def begin(self, index: Expr) -> None:
        """See ``BlockValues.begin``."""
        self._index, self._asked = index, 0
        self._runs = RowsOfBlock(self._emitter, self._dot, self._plan.weight, self._rows, index, self._hold).runs()

    def each_group(self, body: Callable[[Expr], None]) -> None:
        """See ``BlockValues.each_group``."""
        for group in range(self._plan.groups):
            body(i64(group))

    def weights(self, group: Expr, number: int) -> Weights:
        """See ``BlockValues.weights``."""
        quants = self._run(group, number).quants
        assert quants is not None
        vector = (quants.unsigned if self._plan.takes_unsigned else quants.bits)[number % STEPS]
        if self._plan.offset and not self._plan.takes_unsigned:
            vector = vector + same_byte(vector, self._plan.offset)
        return tuple(map(self._hold, self._dot.prepared(self._hold(vector), signed=self._plan.signed)))

    def scale(self, group: Expr, number: int) -> Expr:
        """See ``BlockValues.scale``."""
        whole = self._run(group, number - number % self._steps_of_scale).whole
        return self._dot.scales(whole)

    @property
    def _steps_of_scale(self) -> int:
        return SUMS // max(1, self._plan.scales_in_group)

    def scale_pairs(self, number: int) -> Expr:
        """See ``BlockValues.scale_pairs``."""
        return _pair(*(run.scaled.whole for run in self._runs[2 * number : 2 * number + 2]))

    def real(self) -> Expr:
        """See ``BlockValues.real``."""
        return self._runs[0].scaled.real

    def minimum(self) -> Expr:
        """See ``BlockValues.minimum``."""
        return self._minimum(0).real

    def minimum_pairs(self, number: int) -> Expr:
        """See ``BlockValues.minimum_pairs``."""
        each = self._plan.elements_of_sums // (STEPS * FOUR)
        return _pair(*(self._minimum((2 * number + part) * each).whole for part in (0, 1)))

    def _minimum(self, run: int) -> Product:
        found = self._runs[run].minimum
        assert found is not None
        return found

    def _run(self, group: Expr, number: int) -> Product:
        return self._runs[int(group) * 2 + number // STEPS].scaled


def _pair(low: Expr, high: Expr) -> Expr:
    return low & 0xFFFF | high << 16


class KeptBlocks(BlockValues):
    """Values of all blocks of the rows, laid out one after the other in scratch memory."""

    def __init__(self, emitter: Emitter, dot: IntegerDot, plan: BlockPlan, rows: Sequence[Expr], blocks: int) -> None:
        self._plan, self._dot, self._index = plan, dot, i64(0)
        looked_at = FreshBlock(emitter, dot, plan, rows, hold=lambda vector: vector)
        looked_at.begin(i64(0))
        #: By name: how many vectors of it a block has, their lanes, and where those of all blocks are kept.
        self._kept: dict[str, tuple[int, int, Buffer]] = {}
        for name, vectors in self._all(looked_at).items():
            lanes = lanes_of(vectors[0])
            self._kept[name] = len(vectors), lanes, scratch((blocks * len(vectors) * lanes,), dtype_of(vectors[0]))
        fresh = FreshBlock(emitter, dot, plan, rows)
        with T.serial(i64(0), i64(blocks)) as index:
            self._index = index
            fresh.begin(index)
            for name, vectors in self._all(fresh).items():
                for number, vector in enumerate(vectors):
                    T.buffer_store(self._kept[name][2].elements, vector, [self._place(name, i64(number))])

    def _all(self, fresh: FreshBlock) -> dict[str, list[Expr]]:
        """What is kept of a block, by name."""
        plan = self._plan
        steps = [(i64(group), number) for group in range(plan.groups) for number in range(SUMS)]
        found: dict[str, list[Expr]] = {}
        for group, number in steps:
            weights = fresh.weights(group, number)
            for part, vector in enumerate(weights):
                found.setdefault(f"weights{part}", []).append(vector)
        if plan.scales_in_group:
            found["scale"] = [fresh.scale(group, number) for group, number in steps if number % (SUMS // plan.scales_in_group) == 0]
        if plan.offset_of_runs:
            found["scale pairs"] = [fresh.scale_pairs(number) for number in range(SUMS)]
        found["real"] = [fresh.real()]
        if plan.has_minima:
            found["minimum"] = [fresh.minimum()]
        if plan.has_minima and not plan.keeps_sums:
            count = plan.weight.format.elements // plan.elements_of_sums // 2
            found["minimum pairs"] = [fresh.minimum_pairs(number) for number in range(count)]
        return found

    def _place(self, name: str, number: Expr) -> Expr:
        count, lanes, _ = self._kept[name]
        return tirx.Ramp((self._index * count + number) * lanes, i64(1), lanes)

    def _load(self, name: str, number: Expr) -> Expr:
        return hold(self._kept[name][2].elements[self._place(name, number)])

    def begin(self, index: Expr) -> None:
        """See ``BlockValues.begin``."""
        self._index = index

    def prefetch(self, group: Expr, number: int) -> None:
        """See ``BlockValues.prefetch``: what is kept is near."""

    def each_group(self, body: Callable[[Expr], None]) -> None:
        """See ``BlockValues.each_group``."""
        with T.serial(i64(0), i64(self._plan.groups)) as group:
            body(group)

    def weights(self, group: Expr, number: int) -> Weights:
        """See ``BlockValues.weights``."""
        parts = sum(name.startswith("weights") for name in self._kept)
        return tuple(self._load(f"weights{part}", group * SUMS + number) for part in range(parts))

    def scale(self, group: Expr, number: int) -> Expr:
        """See ``BlockValues.scale``."""
        count = self._plan.scales_in_group
        return self._load("scale", group * count + number * count // SUMS)

    def scale_pairs(self, number: int) -> Expr:
        """See ``BlockValues.scale_pairs``."""
        return self._load("scale pairs", i64(number))

    def real(self) -> Expr:
        """See ``BlockValues.real``."""
        return self._load("real", i64(0))

    def minimum(self) -> Expr:
        """See ``BlockValues.minimum``."""
        return self._load("minimum", i64(0))

    def minimum_pairs(self, number: int) -> Expr:
        """See ``BlockValues.minimum_pairs``."""
        return self._load("minimum pairs", i64(number))
