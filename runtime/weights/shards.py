"""Shards of tensor parallelism that were joined along the wrong axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.runtime.weights.decoded import Decoded
from aprgraph.runtime.weights.fit import Fit
from aprgraph.runtime.weights.rows import Index, StackedRows
from aprgraph.runtime.weights.tensor_pair import TensorPair

#: Ranks that there may be.
_RANKS = (2, 4, 8, 16, 32)
_MATRIX = 2
#: Fewer rows are no shard; the rows of a router are experts, which no rank divides.
_LEAST_ROWS, _ROUTER = 16, "ffn_gate_inp.weight"


class ShardsBelow:
    """Rows of [rows, columns] of a tensor that holds ``count`` shards of its columns, one below the other."""

    unit = 1

    def __init__(self, file: Source, info: TensorInfo, dims: tuple[int, ...], count: int) -> None:
        self.count, self.columns = dims
        self._shards, self._lines = (
            count,
            StackedRows(file, [replace(info, dims=(count * dims[0], dims[1] // count), radius=None, in_pieces=None)]),
        )
        self.unit = self._lines.unit

    def fetch(self, rows: Index) -> Decoded:
        """See ``Rows.fetch``."""
        parts = [self._lines.fetch(rows + shard * self.count) for shard in range(self._shards)]
        outer = None if parts[0].outer is None else np.concatenate([part.outer for part in parts if part.outer is not None], axis=1)
        values, radius = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("values", "radius"))
        return Decoded(values, radius, outer)


def stacked_shards(pair: TensorPair) -> Iterator[Fit]:
    """Shards of columns that lie one below the other, and shards of rows that lie side by side, in B and in A."""
    a, b = pair.a, pair.b
    if pair.slot == _ROUTER or len(a.dims) != _MATRIX or len(b.dims) != _MATRIX or math.prod(a.dims) != math.prod(b.dims):
        return
    for side, file, held, whole in (("B", pair.file_b, b, a), ("A", pair.file_a, a, b)):
        for count in _RANKS:
            yield from _joined(pair, side, file, held, whole.dims, count)


def _joined(pair: TensorPair, side: str, file: Source, held: TensorInfo, dims: tuple[int, ...], count: int) -> Iterator[Fit]:
    """The two ways in which ``held``, of ``side``, may have the matrix [rows, columns] of the other side in ``count`` shards."""
    rows, columns = dims
    step = held.format.elements
    if columns % (count * step) == 0 and held.dims in ((count * rows, columns // count), dims):
        found = ShardsBelow(file, held, dims, count)
        text = _in_words(side, count, "columns one below the other", "one below the other", held.dims == dims)
        yield Fit("shards-stacked", text, found) if side == "B" else Fit("shards-stacked", text, pair.rows_b, target=found)
    if rows % count == 0 and rows >= count * _LEAST_ROWS and columns % step == 0 and held.dims in ((rows // count, columns * count), dims):
        lines, of_one = StackedRows(file, [replace(held, dims=dims, radius=None, in_pieces=None)]), rows // count
        text = _in_words(side, count, "rows side by side", "side by side", held.dims == dims)
        if side == "B":
            yield Fit("shards-stacked", text, lines, lambda numbers: numbers % of_one * count + numbers // of_one)
        else:
            yield Fit("shards-stacked", text, pair.rows_b, lambda numbers: numbers % count * of_one + numbers // count, target=lines)


def _in_words(side: str, count: int, whole: str, where: str, alike: bool) -> str:
    """What is said: of other dimensions, values do not tell which side is right."""
    if alike:
        return f"{side} has its {count} shards of {whole}, as where those of {count} ranks were joined along the wrong axis"
    other, there = ("A" if side == "B" else "B"), "side by side" if where == "one below the other" else "one below the other"
    lie = f"{count} shards lie {where} in {side}, {there} in {other}"
    return f"{lie}: those of {count} ranks were joined along the wrong axis in one of the two"
