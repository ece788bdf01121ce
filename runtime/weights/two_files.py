"""The two files of a comparison, and what is made of them once for all tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.runtime.weights.own_order import RowAlignment
from aprgraph.runtime.weights.rows import ReorderedRows, Rows, rows_of

#: Rows and columns of a tensor by which it is told to be unlike another, and how unlike (as a cosine).
_ROWS, _COLUMNS, _UNLIKE = 4, 512, 0.5
#: Vectors are alike whatever they are of: norms are near 1. How far two of one may be apart, as a share of their energy.
_ROUNDED = 1e-3

#: By dims tensors of a file, and some elements of each, [tensors, elements].
_Some = dict[tuple[int, ...], tuple[list[TensorInfo], npt.NDArray[np.float32]]]


class TwoFiles:
    """The files ``a`` and ``b``; B's rows are brought to A's order of q and k where their kinds of file have others."""

    def __init__(self, a: Source, b: Source) -> None:
        self.a, self.b = a, b
        self.alignment = RowAlignment(a.metadata, b.metadata)

    def rows_of_b(self, info: TensorInfo) -> Rows:
        """The rows of a tensor of B, in A's order."""
        return self.in_order(info, rows_of(self.b, info))

    def in_order(self, info: TensorInfo, rows: Rows) -> Rows:
        """Rows of a tensor of B, in A's order."""
        order = self.alignment.order(info.name, rows.count)
        return rows if order is None else ReorderedRows(rows, order)

    def alike(self, rows: Rows, info: TensorInfo) -> Iterator[TensorInfo]:
        """B's tensors of the dims of ``info`` of which some elements are like those of ``rows``."""
        return _alike(self._some_of_b, rows, info)

    def alike_in_a(self, rows: Rows, info: TensorInfo) -> Iterator[TensorInfo]:
        """A's tensors of the dims of ``info`` of which some elements are like those of ``rows``."""
        return _alike(self._some_of_a, rows, info)

    @cached_property
    def _some_of_a(self) -> _Some:
        return _some_by_dims(self.a, lambda info: rows_of(self.a, info))

    @cached_property
    def _some_of_b(self) -> _Some:
        return _some_by_dims(self.b, self.rows_of_b)


def _some_by_dims(file: Source, rows: Callable[[TensorInfo], Rows]) -> _Some:
    """By dims the tensors of a file, with some elements of each: decoded once, they are asked for by every tensor."""
    by_dims: dict[tuple[int, ...], list[TensorInfo]] = {}
    for info in file.tensors.values():
        by_dims.setdefault(_plain_dims(info.dims), []).append(info)
    found = {dims: (infos, np.stack([_some(rows(info)) for info in infos])) for dims, infos in by_dims.items() if len(infos) > 1}
    file.release()
    return found


def _alike(some: _Some, rows: Rows, info: TensorInfo) -> Iterator[TensorInfo]:
    kept = some.get(_plain_dims(info.dims))
    if kept is None:
        return
    infos, theirs = kept
    ours = _some(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        energy, energies = float(ours @ ours), np.einsum("ij,ij->i", theirs, theirs)
        products = theirs @ ours
        if math.prod(info.dims[:-1]) == 1:
            near = energy + energies - 2 * products <= _ROUNDED * energy
        else:
            near = np.abs(products) >= _UNLIKE * np.sqrt(energy * energies)
    yield from (infos[index] for index in np.flatnonzero(near).tolist())


def _plain_dims(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Without leading ones."""
    start = next((index for index, dim in enumerate(dims[:-1]) if dim != 1), len(dims) - 1)
    return dims[start:]


def _some(rows: Rows) -> npt.NDArray[np.float32]:
    """Some elements, at the same places in every tensor of the same dims."""
    if rows.columns == 1:
        return rows.fetch(np.arange(min(rows.count, _COLUMNS))).values[:, 0]
    chosen = np.unique(np.linspace(0, rows.count - 1, _ROWS + 2)[1:-1].astype(np.int64))
    return rows.fetch(chosen).values[:, :_COLUMNS].reshape(-1)
