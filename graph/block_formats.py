"""Block formats: how ggml lays out the elements of a quantised tensor, each declared once.

A row is a sequence of blocks; a block holds ``elements`` values in ``fields`` that follow each other without padding.
``decode`` gives RUN consecutive values of one block in terms of a BlockReader, whose values are NumPy arrays in the
reference decoder below and TVM expressions in ``codegen/decode.py``: the CPU kernel, the reference and the documentation
all come from the same few lines. The layouts are ggml's (ggml-common.h and ggml-quants.c of llama.cpp).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.graph.ir import TensorType

#: How many consecutive elements one call of ``decode`` gives. Within a run only byte offsets move.
RUN = 16


class BlockReader(Protocol):
    """Access to the fields of one block. Integer values are 32 bits wide; real values are the target's float."""

    def integer(self, field: str, index: Any = 0) -> Any:
        """Element ``index`` of an integer field."""

    def real(self, field: str, index: Any = 0) -> Any:
        """Element ``index`` of a floating-point field."""

    def to_real(self, value: Any) -> Any:
        """An integer value as a real one."""

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a · b + c, rounded once where the target rounds."""


@dataclass(frozen=True)
class Field:
    """``count`` values of ``dtype`` (a NumPy name, or "bfloat16")."""

    name: str
    dtype: str
    count: int = 1

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return np.dtype(self.dtype).itemsize if self.dtype != "bfloat16" else 2


@dataclass(frozen=True)
class BlockFormat:
    """One ggml tensor type. ``decode(block, first, lane)`` gives the elements first + lane, for lane in 0 .. RUN - 1."""

    name: str
    ggml_type: int
    elements: int
    fields: tuple[Field, ...]
    decode: Callable[[BlockReader, int, Any], Any]
    summary: str

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return sum(field.itemsize * field.count for field in self.fields)

    @property
    def is_plain(self) -> bool:
        """Whether elements lie side by side without blocks, so that rows may have any length."""
        return self.elements == 1

    def offset(self, name: str) -> int:
        """Byte offset of the field ``name`` in a block."""
        position = 0
        for field in self.fields:
            if field.name == name:
                return position
            position += field.itemsize * field.count
        raise KeyError(name)

    def field(self, name: str) -> Field:
        """The field ``name``."""
        return next(field for field in self.fields if field.name == name)

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of ``columns`` elements, which must be a whole number of blocks."""
        assert columns % self.elements == 0
        return columns // self.elements * self.block_bytes


def _decode_plain(block: BlockReader, first: int, lane: Any) -> Any:
    return block.real("x", first + lane)


def _decode_q8_0(block: BlockReader, first: int, lane: Any) -> Any:
    return block.real("d") * block.to_real(block.integer("qs", first + lane))


def _nibble(block: BlockReader, first: int, lane: Any) -> Any:
    """4-bit values of a 32-element block: bytes hold element i in the low half, i + 16 in the high half."""
    return (block.integer("qs", lane) >> (first // 16 * 4)) & 15


def _decode_q4_0(block: BlockReader, first: int, lane: Any) -> Any:
    return block.real("d") * block.to_real(_nibble(block, first, lane) - 8)


def _decode_q4_1(block: BlockReader, first: int, lane: Any) -> Any:
    return block.fma(block.real("d"), block.to_real(_nibble(block, first, lane)), block.real("m"))


def _decode_q4_k(block: BlockReader, first: int, lane: Any) -> Any:
    # Eight sub-blocks of 32 values; two share 32 bytes. Their 6-bit scales and minima are packed into 12 bytes.
    sub = first // 32
    q = (block.integer("qs", sub // 2 * 32 + first % 32 + lane) >> (sub % 2 * 4)) & 15
    if sub < 4:
        scale = block.integer("scales", sub) & 63
        minimum = block.integer("scales", sub + 4) & 63
    else:
        scale = (block.integer("scales", sub + 4) & 15) | ((block.integer("scales", sub - 4) >> 6) << 4)
        minimum = (block.integer("scales", sub + 4) >> 4) | ((block.integer("scales", sub) >> 6) << 4)
    offset = block.real("dmin") * block.to_real(minimum)
    return block.fma(block.real("d") * block.to_real(scale), block.to_real(q), -offset)


def _decode_q6_k(block: BlockReader, first: int, lane: Any) -> Any:
    # Two halves of 128 values; in each, four quarters of 32 share 64 bytes of low nibbles and 32 of high bit pairs.
    half, quarter, inside = first // 128, first % 128 // 32, first % 32
    low = (block.integer("ql", half * 64 + quarter % 2 * 32 + inside + lane) >> (quarter // 2 * 4)) & 15
    high = (block.integer("qh", half * 32 + inside + lane) >> (quarter * 2)) & 3
    scale = block.real("d") * block.to_real(block.integer("scales", first // 16))
    return scale * block.to_real((low | (high << 4)) - 32)


_F16 = "float16"
_U8 = "uint8"

BLOCK_FORMATS: dict[str, BlockFormat] = {
    fmt.name: fmt
    for fmt in (
        BlockFormat("F32", 0, 1, (Field("x", "float32"),), _decode_plain, "x"),
        BlockFormat("F16", 1, 1, (Field("x", _F16),), _decode_plain, "x"),
        BlockFormat("BF16", 30, 1, (Field("x", "bfloat16"),), _decode_plain, "x"),
        BlockFormat("Q8_0", 8, 32, (Field("d", _F16), Field("qs", "int8", 32)), _decode_q8_0, "d · q, q in -128..127"),
        BlockFormat("Q4_0", 2, 32, (Field("d", _F16), Field("qs", _U8, 16)), _decode_q4_0, "d · (q - 8), q in 0..15"),
        BlockFormat("Q4_1", 3, 32, (Field("d", _F16), Field("m", _F16), Field("qs", _U8, 16)), _decode_q4_1, "d · q + m, q in 0..15"),
        BlockFormat(
            "Q4_K", 12, 256, (Field("d", _F16), Field("dmin", _F16), Field("scales", _U8, 12), Field("qs", _U8, 128)),
            _decode_q4_k, "d · scale · q - dmin · min, q in 0..15, 6-bit scale and min per 32",
        ),
        BlockFormat(
            "Q6_K", 14, 256, (Field("ql", _U8, 128), Field("qh", _U8, 64), Field("scales", "int8", 16), Field("d", _F16)),
            _decode_q6_k, "d · scale · (q - 32), q in 0..63, 8-bit scale per 16",
        ),
    )
}  # fmt: skip

FORMAT_BY_GGML_TYPE: dict[int, BlockFormat] = {fmt.ggml_type: fmt for fmt in BLOCK_FORMATS.values()}


#: Dtype of the buffer that hands a plain format to a kernel; bfloat16 travels as its bits.
_PLAIN_DTYPES = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}


def weight_format(weight: TensorType) -> BlockFormat:
    """The block format of a weight's type."""
    return BLOCK_FORMATS[weight.dtype.upper()]


def weight_storage(weight: TensorType) -> tuple[str, tuple[int, ...]]:
    """NumPy dtype and dims under which a weight is handed to kernels: its own if plain, rows of bytes if in blocks."""
    fmt = weight_format(weight)
    dims = weight.bind()
    if fmt.is_plain:
        return _PLAIN_DTYPES[fmt.fields[0].dtype], dims
    return "uint8", (*dims[:-1], fmt.row_bytes(dims[-1]))


class _NumpyBlocks:
    """BlockReader over many blocks at once: values are [blocks, 1] or [blocks, RUN], reals in float64."""

    def __init__(self, fmt: BlockFormat, blocks: npt.NDArray[np.uint8]) -> None:
        self._columns: dict[str, npt.NDArray[Any]] = {}
        for field in fmt.fields:
            start = fmt.offset(field.name)
            raw = np.ascontiguousarray(blocks[:, start : start + field.itemsize * field.count])
            dtype = ml_dtypes.bfloat16 if field.dtype == "bfloat16" else np.dtype(field.dtype)
            self._columns[field.name] = raw.view(dtype)

    def integer(self, field: str, index: Any = 0) -> Any:
        return self._columns[field][:, np.atleast_1d(index)].astype(np.int32)

    def real(self, field: str, index: Any = 0) -> Any:
        return self._columns[field][:, np.atleast_1d(index)].astype(np.float64)

    def to_real(self, value: Any) -> Any:
        return value.astype(np.float64)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return a * b + c


def decode_reference(fmt: BlockFormat, raw: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Decode the bytes ``raw`` of a tensor into float64 of ``shape`` (outermost dimension first)."""
    if fmt.is_plain:
        dtype = ml_dtypes.bfloat16 if fmt.fields[0].dtype == "bfloat16" else np.dtype(fmt.fields[0].dtype)
        plain: npt.NDArray[np.float64] = np.ascontiguousarray(raw).view(dtype).astype(np.float64)
        return plain.reshape(shape)
    blocks = _NumpyBlocks(fmt, np.ascontiguousarray(raw).reshape(-1, fmt.block_bytes))
    lane = np.arange(RUN)
    runs = [fmt.decode(blocks, first, lane) for first in range(0, fmt.elements, RUN)]
    decoded: npt.NDArray[np.float64] = np.concatenate(runs, axis=1)
    return decoded.reshape(shape)
