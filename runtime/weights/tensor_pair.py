"""One tensor of A and what B has under its name, with all that candidates for an explanation are made of."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property

from aprgraph.graph.sources import Source, TensorInfo
from aprgraph.runtime.weights.rows import Index, ReorderedRows, Rows, StackedRows

_LAYER = re.compile(r"blk\.(\d+)\.(.+)", re.DOTALL)


def layer_and_slot(name: str) -> tuple[int | None, str]:
    """``blk.3.attn_q.weight``: 3 and ``attn_q.weight``; None and the name itself where it is of no layer."""
    matched = _LAYER.fullmatch(name)
    return (None, name) if matched is None else (int(matched[1]), matched[2])


@dataclass(frozen=True, eq=False)
class TensorPair:
    """The tensors ``a`` of ``file_a`` and ``b`` of ``file_b``.

    ``order`` is that of B's rows in A's terms, where the kinds of file have other orders.
    """

    file_a: Source
    file_b: Source
    a: TensorInfo
    b: TensorInfo
    order: Index | None = None

    @property
    def name(self) -> str:
        """What A calls it."""
        return self.a.name

    @property
    def is_vector(self) -> bool:
        """Whether it has one dimension; some writers put ones before it."""
        return math.prod(self.a.dims[:-1]) == 1

    @property
    def slot(self) -> str:
        """The name without the layer."""
        return layer_and_slot(self.name)[1]

    @property
    def layer(self) -> int | None:
        """The layer, if it is of one."""
        return layer_and_slot(self.name)[0]

    @cached_property
    def rows_a(self) -> StackedRows:
        """A's rows; of a vector, its elements."""
        return rows_of(self.file_a, self.a)

    @cached_property
    def rows_b(self) -> Rows:
        """B's rows, in A's order."""
        rows = rows_of(self.file_b, self.b)
        return rows if self.order is None else ReorderedRows(rows, self.order)

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix: of experts, those of one."""
        return self.a.dims[-1] if self.is_vector else self.a.dims[-2]

    def other(self, slot: str) -> TensorInfo | None:
        """B's tensor of the same layer with another name, if it has one of A's dims."""
        name = slot if self.layer is None else f"blk.{self.layer}.{slot}"
        info = self.file_b.tensors.get(name)
        return info if info is not None and info.has_dims(self.a.dims) else None


def rows_of(file: Source, *tensors: TensorInfo) -> StackedRows:
    """The rows of tensors of the same dims; elements of a vector are rows of one element, so that they can be in another order."""
    first = tensors[0]
    if math.prod(first.dims[:-1]) == 1 and all(info.format.is_plain for info in tensors):
        return StackedRows(file, [replace(info, dims=(info.dims[-1], 1)) for info in tensors])
    return StackedRows(file, tensors)
