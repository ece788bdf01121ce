"""Weights that are multiplied by the same rows, as q, k and v are: those of one type are one weight to a linear kernel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.tir import Expr, i64


class WeightsAlike(Weight):
    """Weights of one type but for their numbers of rows, in whose order their outputs lie: their code is written once, and their tiles are
    computed in one loop. Rows are those of the weight of the tile that was taken; ``rows`` is how many the longest has.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        vars(self).update(vars(max(weights, key=lambda weight: weight.rows)))
        self._weights = weights
        self._end = i64(self.rows)

    @property
    def outputs(self) -> int:
        return sum(weight.rows for weight in self._weights)

    def tiles_of(self, rows: int) -> int:
        return sum(weight.tiles_of(rows) for weight in self._weights)

    def fills(self, rows: int) -> bool:
        return all(weight.fills(rows) for weight in self._weights)

    @property
    def end(self) -> Expr:
        return self._end

    def take(self, tile: Expr, rows: int) -> tuple[Expr, Expr]:
        ends = list(accumulate(weight.tiles_of(rows) for weight in self._weights))
        outputs = [0, *accumulate(weight.rows for weight in self._weights)]

        def of_tile(values: Sequence[Expr]) -> Expr:
            chosen = values[-1]
            for end, value in zip(reversed(ends[:-1]), reversed(values[:-1]), strict=True):
                chosen = T.Select(tile < end, value, chosen)
            return T.bind(chosen)

        # TVM chooses between numbers alone.
        address = of_tile([T.reinterpret("uint64", weight._buffer.data) for weight in self._weights])
        self._buffer = self._buffer.at(T.bind(T.reinterpret("handle", address)))
        self._end = of_tile([i64(weight.rows) for weight in self._weights])
        return tile - of_tile([i64(first) for first in [0, *ends[:-1]]]), of_tile([i64(first) for first in outputs[:-1]])


def alike(weights: Sequence[Weight]) -> list[Weight]:
    """Neighbours of one type but for their numbers of rows as one weight each."""
    groups = [list(those) for _, those in groupby(weights, key=lambda weight: weight.rows_are_of)]
    return [those[0] if len(those) == 1 else WeightsAlike(those) for those in groups]
