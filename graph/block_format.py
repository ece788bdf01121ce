"""What a block format is made of: fields side by side in a block, and perhaps scales that lie elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from aprgraph.graph.block_decoders import BlockReader

#: Where weights are packed, their scales begin at a multiple of so many bytes.
_SCALES_ALIGNMENT = 64


@dataclass(frozen=True)
class Field:
    """``count`` values of ``dtype`` (a name of NumPy's, or of ml_dtypes: "bfloat16", "float8_e4m3fn")."""

    name: str
    dtype: str
    count: int = 1

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return self.numpy_dtype.itemsize

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype, for arrays."""
        return np.dtype(getattr(ml_dtypes, self.dtype, self.dtype))


@dataclass(frozen=True)
class Scales:
    """Fields that lie apart from a matrix's blocks: one group of them for ``rows`` rows and, in each of these, ``blocks``
    blocks; 0 for all of them.
    """

    fields: tuple[Field, ...]
    rows: int = 1
    blocks: int = 1

    @property
    def group_bytes(self) -> int:
        """Bytes of one group."""
        return sum(field.itemsize * field.count for field in self.fields)

    def dims(self, rows: int, blocks: int) -> tuple[int, int]:
        """Groups of a matrix of ``rows`` rows of ``blocks`` blocks: how many rows of them, and how many in each."""
        return -(-rows // (self.rows or rows)), -(-blocks // (self.blocks or blocks))


@dataclass(frozen=True)
class BlockFormat:
    """One ggml tensor type, or a way in which checkpoints pack weights.

    ``decode(block, first, lane)`` gives the elements first + lane, for lane in 0 .. RUN - 1. It is None where only the
    `gguf` package knows how; ``fields`` is then one field of a block's bytes. ``scales`` are fields of blocks that lie
    elsewhere. ``minimum(block)`` gives, where there is one, the field that is added to every element of a block. ``in_columns``: the lines
    of a matrix are its columns, one after the other.
    """

    name: str
    ggml_type: int
    elements: int
    fields: tuple[Field, ...]
    decode: Callable[[BlockReader, int, Any], Any] | None
    summary: str
    scales: Scales | None = None
    minimum: Callable[[BlockReader], Any] | None = None
    in_columns: bool = False

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return sum(field.itemsize * field.count for field in self.fields)

    @property
    def is_plain(self) -> bool:
        """Whether elements lie side by side without blocks, so that rows may have any length."""
        return self.elements == 1

    @property
    def is_decoded_when_bound(self) -> bool:
        """Whether kernels get the weight as f32, decoded by the `gguf` package, instead of the file's own blocks."""
        return self.decode is None

    @property
    def arrives_in_blocks(self) -> bool:
        """Whether kernels decode the weight from blocks; otherwise its elements come one by one."""
        return not (self.is_plain or self.is_decoded_when_bound)

    def packed_bytes(self, matrices: int, rows: int, columns: int) -> tuple[int, int]:
        """Of so many matrices of ``rows`` rows of ``columns`` elements one after the other, with all their scales behind:
        where the scales begin, and how many bytes there are in all.
        """
        end = matrices * rows * self.row_bytes(columns)
        if self.scales is None:
            return end, end
        groups, across = self.scales.dims(rows, columns // self.elements)
        start = -(-end // _SCALES_ALIGNMENT) * _SCALES_ALIGNMENT
        return start, start + matrices * groups * across * self.scales.group_bytes

    def lies_apart(self, name: str) -> bool:
        """Whether the field ``name`` is one of ``scales``."""
        return self.scales is not None and any(field.name == name for field in self.scales.fields)

    def offset(self, name: str) -> int:
        """Byte offset of the field ``name`` in a block, or in a group of scales."""
        position = 0
        for field in self._beside(name):
            if field.name == name:
                return position
            position += field.itemsize * field.count
        raise KeyError(name)

    def field(self, name: str) -> Field:
        """The field ``name``."""
        return next(field for field in self._beside(name) if field.name == name)

    def _beside(self, name: str) -> tuple[Field, ...]:
        """The fields that lie with the field ``name``."""
        return self.scales.fields if self.scales is not None and self.lies_apart(name) else self.fields

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of ``columns`` elements, which must be a whole number of blocks."""
        assert columns % self.elements == 0
        return columns // self.elements * self.block_bytes
