"""Block formats: how ggml lays out the elements of a quantised tensor, each declared once.

A row is a sequence of blocks; a block holds ``elements`` values in ``fields`` that follow each other without padding, out
of which the format's decoder (graph/block_decoders.py) brings the values: in the kernels, and in the reference below.

Formats that are not in ``BLOCK_FORMATS``, but that the `gguf` package can dequantise, are decoded by it when a weight is
bound: they cost memory, 4 bytes an element, and a notice says so. Everything else is refused when the file is opened.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph import block_decoders as decoders
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_format import BlockFormat, Field
from aprgraph.graph.checkpoint_formats import checkpoint_format
from aprgraph.graph.ir import TensorType

_F16 = "float16"
_U8 = "uint8"

_D, _M = Field("d", _F16), Field("m", _F16)
_D_AND_DMIN = (_D, Field("dmin", _F16))

BLOCK_FORMATS: dict[str, BlockFormat] = {
    fmt.name: fmt
    for fmt in (
        BlockFormat("F32", 0, 1, (Field("x", "float32"),), decoders.decode_plain, "x"),
        BlockFormat("F16", 1, 1, (Field("x", _F16),), decoders.decode_plain, "x"),
        BlockFormat("BF16", 30, 1, (Field("x", "bfloat16"),), decoders.decode_plain, "x"),
        BlockFormat("Q8_0", 8, 32, (_D, Field("qs", "int8", 32)), decoders.decode_q8_0, "d · q, q in -128..127"),
        BlockFormat(
            "Q4_0", 2, 32, (_D, Field("qs", _U8, 16)),
            decoders.decode_q4_0, "d · (q - 8), q in 0..15", minimum=decoders.minimum_of_q4_0,
        ),
        BlockFormat(
            "Q4_1", 3, 32, (_D, _M, Field("qs", _U8, 16)),
            decoders.decode_q4_1, "d · q + m, q in 0..15", minimum=decoders.minimum_of_block,
        ),
        BlockFormat(
            "Q5_0", 6, 32, (_D, Field("qh", _U8, 4), Field("qs", _U8, 16)),
            decoders.decode_q5_0, "d · (q - 16), q in 0..31", minimum=decoders.minimum_of_q5_0,
        ),
        BlockFormat(
            "Q5_1", 7, 32, (_D, _M, Field("qh", _U8, 4), Field("qs", _U8, 16)),
            decoders.decode_q5_1, "d · q + m, q in 0..31", minimum=decoders.minimum_of_block,
        ),
        BlockFormat("IQ4_NL", 20, 32, (_D, Field("qs", _U8, 16)), decoders.decode_iq4_nl, "d · table[q], 16 values denser around 0"),
        BlockFormat("MXFP4", 39, 32, (Field("e", _U8), Field("qs", _U8, 16)), decoders.decode_mxfp4, "2^(e - 127) · q, q of E2M1"),
        BlockFormat(
            "Q2_K", 10, 256, (Field("scales", _U8, 16), Field("qs", _U8, 64), *_D_AND_DMIN),
            decoders.decode_q2_k, "d · scale · q - dmin · min, q in 0..3, 4-bit scale and min per 16",
        ),
        BlockFormat(
            "Q3_K", 11, 256, (Field("hmask", _U8, 32), Field("qs", _U8, 64), Field("scales", _U8, 12), _D),
            decoders.decode_q3_k, "d · (scale - 32) · (q - 4), q in 0..7, 6-bit scale per 16",
        ),
        BlockFormat(
            "Q4_K", 12, 256, (*_D_AND_DMIN, Field("scales", _U8, 12), Field("qs", _U8, 128)),
            decoders.decode_q4_k, "d · scale · q - dmin · min, q in 0..15, 6-bit scale and min per 32",
        ),
        BlockFormat(
            "Q5_K", 13, 256, (*_D_AND_DMIN, Field("scales", _U8, 12), Field("qh", _U8, 32), Field("qs", _U8, 128)),
            decoders.decode_q5_k, "d · scale · q - dmin · min, q in 0..31, 6-bit scale and min per 32",
        ),
        BlockFormat(
            "Q6_K", 14, 256, (Field("ql", _U8, 128), Field("qh", _U8, 64), Field("scales", "int8", 16), _D),
            decoders.decode_q6_k, "d · scale · (q - 32), q in 0..63, 8-bit scale per 16",
        ),
        BlockFormat(
            "IQ4_XS", 23, 256, (_D, Field("scales_h", "uint16"), Field("scales_l", _U8, 4), Field("qs", _U8, 128)),
            decoders.decode_iq4_xs, "d · (scale - 32) · table[q], 6-bit scale per 32, the table of IQ4_NL",
        ),
    )
}  # fmt: skip

_BY_GGML_TYPE: dict[int, BlockFormat] = {fmt.ggml_type: fmt for fmt in BLOCK_FORMATS.values()}


def find_format(name: str) -> BlockFormat | None:
    """The format ``name`` (upper case), one of a checkpoint among them; None if nothing here, nor the `gguf` package, decodes it."""
    return BLOCK_FORMATS.get(name) or checkpoint_format(name) or _foreign_formats().get(name)


def format_of_ggml_type(code: int) -> BlockFormat | None:
    """The block format of a tensor type number, None if neither this module nor the `gguf` package decodes it."""
    return _BY_GGML_TYPE.get(code) or next((fmt for fmt in _foreign_formats().values() if fmt.ggml_type == code), None)


@cache
def _foreign_formats() -> dict[str, BlockFormat]:
    """What the `gguf` package can dequantise beyond ``BLOCK_FORMATS``; asked for only by files that have such tensors."""
    from gguf.constants import GGML_QUANT_SIZES  # noqa: PLC0415 -- slow import
    from gguf.quants import dequantize  # noqa: PLC0415

    found: dict[str, BlockFormat] = {}
    for kind, (elements, nbytes) in GGML_QUANT_SIZES.items():
        if kind.name in BLOCK_FORMATS:
            continue
        try:
            dequantize(np.zeros((1, nbytes), np.uint8), kind)
        except NotImplementedError:
            continue
        fields = (Field("block", _U8, nbytes),)
        found[kind.name] = BlockFormat(kind.name, int(kind), elements, fields, None, "decoded by the gguf package when it is bound")
    return found


#: Dtype of the buffer that hands a plain format to a kernel; bfloat16 travels as its bits.
_PLAIN_DTYPES = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}


def weight_format(weight: TensorType) -> BlockFormat:
    """The block format of a weight's type."""
    fmt = find_format(weight.dtype.upper())
    assert fmt is not None, weight.dtype  # the verifier has seen the weight
    return fmt


def weight_storage(weight: TensorType) -> tuple[str, tuple[int, ...]]:
    """NumPy dtype and dims under which a weight is handed to kernels: its own if plain, rows of bytes if in blocks.

    Of one whose scales lie apart, all bytes of both where they are packed (graph/weight_pieces.py).
    """
    fmt = weight_format(weight)
    dims = weight.bind()
    if fmt.scales is not None:
        return "uint8", (fmt.packed_bytes(math.prod(dims[:-2]), math.prod(dims[-2:-1]), dims[-1])[1],)
    if fmt.is_decoded_when_bound:
        return "float32", dims
    if fmt.is_plain:
        return _PLAIN_DTYPES[fmt.fields[0].dtype], dims
    return "uint8", (*dims[:-1], fmt.row_bytes(dims[-1]))


class NumpyBlocks:
    """BlockReader over many blocks at once: values are [blocks, 1] or [blocks, RUN], reals in float64.

    ``blocks`` and ``scales`` are u8, one row for each block; ``scales`` for formats whose scales lie apart.
    """

    def __init__(self, fmt: BlockFormat, blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8] | None = None) -> None:
        self.count = len(blocks)
        self._columns: dict[str, npt.NDArray[Any]] = {}
        for field in (*fmt.fields, *(fmt.scales.fields if fmt.scales is not None else ())):
            source = scales if fmt.lies_apart(field.name) else blocks
            assert source is not None
            start = fmt.offset(field.name)
            raw = np.ascontiguousarray(source[:, start : start + field.itemsize * field.count])
            self._columns[field.name] = raw.view(field.numpy_dtype)

    def integer(self, field: str, index: Any = 0) -> Any:
        column, where = self._columns[field], np.atleast_1d(index)
        first = int(where[0])
        if (where - first == np.arange(len(where))).all():  # as a slice it takes a quarter of the time
            return column[:, first : first + len(where)].astype(np.int32)
        return column[:, where].astype(np.int32)

    def bit(self, field: str, first: int, lane: Any) -> Any:
        index = first + lane
        return (self.integer(field, index // 8) >> (index % 8)) & 1

    def nibble(self, field: str, first: int, lane: Any) -> Any:
        index = first + lane
        return (self.integer(field, index // 2) >> (index % 2 * 4)) & 15

    def real(self, field: str, index: Any = 0) -> Any:
        return self._columns[field][:, np.atleast_1d(index)].astype(np.float64)

    def to_real(self, value: Any) -> Any:
        return value.astype(np.float64)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return a * b + c

    def lookup(self, table: tuple[int, ...], index: Any) -> Any:
        return np.array(table, np.int32)[index]

    def power_of_two(self, exponent: Any) -> Any:
        return np.ldexp(1.0, exponent)


def decode_by_gguf(fmt: BlockFormat, raw: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Decode the bytes ``raw`` of a tensor of any format by the `gguf` package, into f32 of ``shape``."""
    from gguf.constants import GGMLQuantizationType  # noqa: PLC0415 -- slow import
    from gguf.quants import dequantize  # noqa: PLC0415

    rows = np.ascontiguousarray(raw).reshape(-1, fmt.row_bytes(shape[-1]))
    decoded: npt.NDArray[np.float32] = dequantize(rows, GGMLQuantizationType(fmt.ggml_type))
    return np.ascontiguousarray(decoded, np.float32).reshape(shape)


def decode_reference(fmt: BlockFormat, raw: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Decode the bytes ``raw`` of a tensor into float64 of ``shape`` (outermost dimension first)."""
    if fmt.decode is None:
        return decode_by_gguf(fmt, raw, shape).astype(np.float64)
    if fmt.is_plain:
        with np.errstate(invalid="ignore"):  # signalling NaNs
            plain: npt.NDArray[np.float64] = np.ascontiguousarray(raw).view(fmt.fields[0].numpy_dtype).astype(np.float64)
        return plain.reshape(shape)
    return decode_blocks(fmt, NumpyBlocks(fmt, np.ascontiguousarray(raw).reshape(-1, fmt.block_bytes))).reshape(shape)


def decode_minima(fmt: BlockFormat, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The minima of the blocks of rows ``raw`` of bytes, in a format that has some: float64 [rows, blocks of a row]."""
    assert fmt.minimum is not None
    minima: npt.NDArray[np.float64] = fmt.minimum(NumpyBlocks(fmt, np.ascontiguousarray(raw).reshape(-1, fmt.block_bytes)))
    return minima.reshape(len(raw), -1)


def decode_blocks(fmt: BlockFormat, blocks: NumpyBlocks) -> npt.NDArray[np.float64]:
    """Decode blocks of a format that is not plain, to float64 [blocks, elements]."""
    assert fmt.decode is not None
    lane = np.arange(RUN)
    decoded = np.empty((blocks.count, fmt.elements))
    with np.errstate(invalid="ignore"):  # a scale that is Inf, times 0
        for first in range(0, fmt.elements, RUN):
            decoded[:, first : first + RUN] = fmt.decode(blocks, first, lane)
    return decoded
