"""One tensor of A and what B has under its name, with all that candidates for an explanation are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.runtime.weights.rows import RememberedRows, StackedRows, rows_of
from aprgraph.runtime.weights.tensor_names import layer_and_slot
from aprgraph.runtime.weights.two_files import TwoFiles


@dataclass(frozen=True, eq=False)
class TensorPair:
    """The tensors ``a`` and ``b`` of two files. ``rows_a`` are A's rows, or elements of a vector, ``rows_b`` B's in A's order.

    ``is_part``: one of the two is some rows of a tensor that holds others as well, and has the name and dims of the other.
    """

    files: TwoFiles
    a: TensorInfo
    b: TensorInfo
    rows_a: RememberedRows
    rows_b: RememberedRows
    is_part: bool = False

    @property
    def file_a(self) -> Source:
        """A."""
        return self.files.a

    @property
    def file_b(self) -> Source:
        """B."""
        return self.files.b

    @property
    def name(self) -> str:
        """What A calls it."""
        return self.a.name

    @property
    def is_as_stored(self) -> bool:
        """Whether both sides' rows are those of the tensors in their order."""
        return isinstance(self.rows_a.rows, StackedRows) and isinstance(self.rows_b.rows, StackedRows)

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

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix: of experts, those of one."""
        return self.a.dims[-1] if self.is_vector else self.a.dims[-2]

    def other(self, slot: str) -> TensorInfo | None:
        """B's tensor of the same layer with another name, if it has one of A's dims."""
        name = slot if self.layer is None else f"blk.{self.layer}.{slot}"
        info = self.file_b.tensors.get(name)
        return info if info is not None and info.has_dims(self.a.dims) else None


def whole_pair(files: TwoFiles, a: TensorInfo, b: TensorInfo) -> TensorPair:
    """A tensor that both files have."""
    return TensorPair(files, a, b, RememberedRows(rows_of(files.a, a)), RememberedRows(files.rows_of_b(b)))
