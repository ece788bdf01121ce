"""Tensors as GGUF has them, of one or several of a checkpoint: as they are stored, or made when they are asked for.

Of those that kernels can read where they lie, though not as GGUF has them, ``Value.in_pieces`` says how.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_format import BlockFormat, Field
from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.checkpoint_formats import MXFP4_PAIRS, checkpoint_format
from aprgraph.graph.errors import ModelFileError, shown
from aprgraph.graph.families.base import Order
from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.sources.checkpoint.safetensors import BITS, StoredTensor
from aprgraph.graph.sources.source import Misreading, Misreadings, Radius, no_misreadings
from aprgraph.graph.weight_pieces import InPieces, Piece
from aprgraph.graph.words import shape_text

Bytes = npt.NDArray[np.uint8]
#: Kernels want weights at multiples of so many bytes.
_ALIGNMENT = 8
_MXFP4_ELEMENTS = 32
#: A scale by the OCP Microscaling Formats specification 1.0.
_E8M0_NAN = 255
#: Channels, their inputs, and positions.
_KERNEL_DIMS = 3
_FP8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
#: The dims of a weight of experts, or of both halves of one.
_EXPERT_DIMS = 3
_KINDS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "U8": np.uint8, "F8_E8M0": np.uint8, **_FP8}


@dataclass(frozen=True)
class Value:
    """A tensor in GGUF's order. ``make`` gives its bytes; ``stored`` is there where they lie so in the file."""

    dims: tuple[int, ...]
    format: BlockFormat
    make: Callable[[], Bytes]
    stored: StoredTensor | None = None
    #: Where the first byte lies in its file.
    offset: int = 0
    #: The dtype in the file, or the packing, where it is decoded to ``format``.
    decoded_from: str = ""
    #: See ``TensorInfo.radius``.
    radius: Radius | None = None
    misreadings: Misreadings = no_misreadings
    in_pieces: InPieces | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as ``make`` gives it."""
        return math.prod(self.dims[:-1]) * self.format.row_bytes(self.dims[-1])


def format_of(dtype: str) -> BlockFormat:
    """The format of a dtype; for one that no kernel decodes, one without a decoder."""
    known = BLOCK_FORMATS.get(dtype)
    return known or BlockFormat(dtype, -1, 1, (Field("x", "uint8", max(BITS[dtype] // 8, 1)),), None, "not decoded")


def is_plain(dtype: str) -> bool:
    """Whether kernels read the dtype as it is."""
    return dtype in BLOCK_FORMATS


def as_stored(tensor: StoredTensor) -> Value:
    """A tensor as it lies in the file; copied when it is asked for where it does not lie at a multiple of 8 bytes."""
    dims = _dims(tensor)
    if tensor.is_decoded:
        value = Value(dims, format_of(tensor.dtype), tensor.view, offset=tensor.offset, decoded_from=tensor.decoded_from)
        return replace(value, radius=tensor.radius, misreadings=tensor.misreadings)
    if tensor.offset % _ALIGNMENT:
        fits = len(dims) == _EXPERT_DIMS - 1 and is_plain(tensor.dtype) and tensor.offset % format_of(tensor.dtype).block_bytes == 0
        in_place = _as_piece(tensor) if fits else None
        return Value(dims, format_of(tensor.dtype), lambda: tensor.view().copy(), offset=tensor.offset, in_pieces=in_place)
    return Value(dims, format_of(tensor.dtype), tensor.view, tensor, tensor.offset)


def as_vector(tensor: StoredTensor) -> Value:
    """A tensor as it lies in the file; a matrix of one row is a vector."""
    value, (*outer, columns) = as_stored(tensor), tensor.dims or (1,)
    return replace(value, dims=(columns,)) if outer == [1] else value


def real(values: npt.NDArray[np.float32]) -> Value:
    """A small tensor that is held in memory, as F32."""
    data = np.ascontiguousarray(values, np.float32)
    return Value(data.shape, BLOCK_FORMATS["F32"], lambda: data.reshape(-1).view(np.uint8))


def converted(value: Value, conversion: Conversion) -> Value:
    """What conversion to GGUF makes of a tensor. Raises IndexError for rows or columns that it does not have."""
    if conversion.changes_nothing:
        return value
    rows, columns = conversion.rows, conversion.columns
    dims = list(value.dims)
    for axis, taken in ((0, rows), (-1, columns)):
        if taken is not None:
            if taken.max() >= dims[axis]:
                raise IndexError(f"has {dims[axis]} {'rows' if axis == 0 else 'columns'}, expected {taken.max() + 1} or more")
            dims[axis] = len(taken)
    if conversion.dims is not None:
        if math.prod(conversion.dims) != math.prod(dims):
            raise IndexError(f"has {math.prod(dims)} elements, expected {math.prod(conversion.dims)}")
        dims = list(conversion.dims)
    before = tuple(dims)
    if conversion.exchanges:
        dims[-2:] = dims[:-3:-1]

    def make() -> Bytes:
        made = value.make().reshape(-1).view(_KINDS[value.format.name]).reshape(value.dims)
        made = made if rows is None else made[rows]
        made = made if columns is None else made[..., columns]
        made = made if conversion.values is None else conversion.values(made).astype(np.float32)
        return _own(made.reshape(before).swapaxes(-2, -1) if conversion.exchanges else made)

    fmt = value.format if conversion.values is None else BLOCK_FORMATS["F32"]
    own = value.radius if conversion.values is None and not conversion.exchanges else None
    radius = None if own is None else partial(_converted_numbers, own, conversion)

    def misreadings() -> Sequence[Misreading]:
        def changed(numbers: Radius) -> Radius:
            return partial(_converted_numbers, numbers, conversion)

        known = value.misreadings() if own is not None else ()
        return [Misreading(one.words, changed(one.values), changed(one.radius)) for one in known]

    changed_value = Value(tuple(dims), fmt, make, offset=value.offset, decoded_from=value.decoded_from)
    return replace(changed_value, radius=radius, misreadings=misreadings)


def _converted_numbers(radius: Radius, conversion: Conversion, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Those of rows and columns in another order."""
    rows = conversion.rows
    found = radius(start, stop) if rows is None else np.concatenate([radius(row, row + 1) for row in rows[start:stop].tolist()])
    return found if conversion.columns is None else found[..., conversion.columns]


def _dims(tensor: StoredTensor) -> tuple[int, ...]:
    """Those in GGUF: a convolution's weight of each channel alone has one axis less."""
    if len(tensor.dims) == _KERNEL_DIMS and tensor.dims[1] == 1:
        return (tensor.dims[0], tensor.dims[2])
    return tensor.dims or (1,)


def elements(tensor: StoredTensor) -> npt.NDArray[np.generic]:
    """A tensor's elements in its own dtype and dims."""
    values: npt.NDArray[np.generic] = tensor.view().view(_KINDS[tensor.dtype]).reshape(tensor.dims)
    return values


def _factors(scale: StoredTensor) -> npt.NDArray[np.float32]:
    """What FP8 is multiplied by; of E8M0 the bytes are exponents of 2 with a bias of 127, and 255 is NaN."""
    found = elements(scale)
    return np.asarray(found.view(ml_dtypes.float8_e8m0fnu) if scale.dtype == "F8_E8M0" else found, np.float32)


def scaled_fp8(tensor: StoredTensor, scale: StoredTensor, block: tuple[int, int]) -> Value:
    """An FP8 matrix times its scale, as F32: one for the tensor, for each row, or for each block of rows and columns."""

    def make() -> Bytes:
        values = elements(tensor).astype(np.float32)
        factors = _factors(scale)
        shared = shared_by(tensor, scale, block)
        if shared != "BLOCK":
            return _own(values * (factors.reshape(()) if shared == "TENSOR" else factors.reshape(-1, 1)))
        rows, columns = tensor.dims
        for row in range(factors.shape[0]):
            band = values[row * block[0] : (row + 1) * block[0]]
            band *= np.repeat(factors[row], block[1])[:columns]
        return _own(values[:rows])

    in_place = _fp8_in_place(tensor, scale, block)
    return Value(tensor.dims, BLOCK_FORMATS["F32"], make, offset=tensor.offset, decoded_from=tensor.dtype, in_pieces=in_place)


def _fp8_in_place(tensor: StoredTensor, scale: StoredTensor, block: tuple[int, int]) -> InPieces | None:
    """The matrix where it lies, unless its rows or its blocks are no whole runs."""
    shared = shared_by(tensor, scale, block)
    fmt = checkpoint_format(f"{tensor.dtype}_{shape_text(block).replace(' ', '').upper() if shared == 'BLOCK' else shared}")
    if fmt is None or fmt.scales is None or tensor.dims[1] % fmt.elements:
        return None
    groups = fmt.scales.dims(tensor.dims[0], tensor.dims[1] // fmt.elements)

    @cache
    def scales() -> Bytes:
        # Few: one for 16,384 weights, or for a row. In another dtype they are held as F32.
        own = scale.view() if scale.dtype == "F32" else _own(_factors(scale))
        return own.reshape(groups[0], -1)

    return InPieces(fmt, [lambda: Piece(tensor.view().reshape(tensor.dims), scales())])


def shared_by(tensor: StoredTensor, scale: StoredTensor, block: tuple[int, int]) -> Literal["TENSOR", "ROW", "BLOCK"] | None:
    """What of an FP8 matrix shares a scale, for ``scaled_fp8``; None where the two do not fit."""
    if len(tensor.dims) != 2 or scale.dtype not in ("F32", "BF16", "F16", "F8_E8M0"):
        return None
    if math.prod(scale.dims) == 1:
        return "TENSOR"
    if scale.dims in ((tensor.dims[0],), (tensor.dims[0], 1)):
        return "ROW"
    blocks = tuple(-(-size // step) for size, step in zip(tensor.dims, block, strict=True))
    return "BLOCK" if scale.dims == blocks else None


def stacked(values: Sequence[Value]) -> Value:
    """The matrices of all experts one after the other, [X, rows, columns]."""
    first = values[0]

    def make() -> Bytes:
        whole = np.empty((len(values), first.nbytes), np.uint8)
        for row, value in zip(whole, values, strict=True):
            row[:] = value.make().reshape(-1)
        return whole.reshape(-1)

    dims, in_place = (len(values), *first.dims), _together(values)
    radii = [value.radius for value in values]
    known = [one for one in radii if one is not None]
    radius = partial(_stacked_numbers, known, first.dims[0]) if len(known) == len(values) else None
    whole = Value(dims, first.format, make, offset=first.offset, decoded_from=first.decoded_from, in_pieces=in_place)
    return replace(whole, radius=radius, misreadings=lambda: list(_stacked_misreadings(values)))


def _stacked_misreadings(values: Sequence[Value]) -> Iterator[Misreading]:
    """Those that all matrices have."""
    by_words = [{one.words: one for one in value.misreadings()} for value in values]
    for words in by_words[0]:
        if all(words in one for one in by_words):
            matrices, rows = [one[words] for one in by_words], values[0].dims[0]
            yield Misreading(
                words,
                partial(_stacked_numbers, [one.values for one in matrices], rows),
                partial(_stacked_numbers, [one.radius for one in matrices], rows),
            )


def _stacked_numbers(radii: Sequence[Radius], rows: int, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Those of rows of matrices one after the other, ``rows`` in each."""
    matrices = range(start // rows, -(-stop // rows))
    return np.concatenate([radii[one](max(start - one * rows, 0), min(stop - one * rows, rows)) for one in matrices])


def _together(values: Sequence[Value]) -> InPieces | None:
    """Matrices where each lies; None where one has to be made, or is in another format than the others."""
    found = [_alone(value) for value in values]
    first = found[0]
    if first is None or any(one is None or one.format != first.format for one in found):
        return None
    return InPieces(first.format, [finder for one in found if one is not None for finder in one.finders])


def _alone(value: Value) -> InPieces | None:
    if value.in_pieces is not None:
        return value.in_pieces
    return None if value.stored is None or len(value.dims) != _EXPERT_DIMS - 1 else _as_piece(value.stored)


def _as_piece(tensor: StoredTensor) -> InPieces:
    """A matrix of a plain format."""
    return InPieces(format_of(tensor.dtype), [lambda: Piece(tensor.view().reshape(tensor.dims[0], -1))])


def half_of(tensor: StoredTensor, which: int, order: Order, *, is_transposed: bool = False) -> Value:
    """Gate (0) or up (1) of all experts, [X, F, E] or [X, F]: from rows of gate and then of up, or from alternating ones.

    ``is_transposed``: matrices have the rows of x first, so that these are columns.
    """
    is_bias = len(tensor.dims) == 2
    axis = 2 if is_transposed and not is_bias else 1
    half = tensor.dims[axis] // 2
    taken = slice(which, None, 2) if order == "interleaved" else slice(which * half, (which + 1) * half)

    def make() -> Bytes:
        values = elements(tensor)
        return _own(values[..., taken].swapaxes(1, 2) if axis == 2 else values[:, taken])

    dims = (tensor.dims[0], half) if is_bias else (tensor.dims[0], half, tensor.dims[3 - axis])
    fmt = format_of(tensor.dtype)
    in_place = (
        None if is_bias or order != "halves" else _in_lines(tensor, range(which * half, (which + 1) * half), in_columns=is_transposed)
    )
    return Value(dims, fmt, make, offset=tensor.offset, in_pieces=in_place)


def _in_lines(tensor: StoredTensor, rows: range, *, in_columns: bool) -> InPieces | None:
    """Some rows of the matrices of all experts where they lie; None where that is at no multiple of an element."""
    fmt = format_of(tensor.dtype)
    held = checkpoint_format(f"{fmt.name}_COLUMNS") if in_columns else fmt
    if held is None or tensor.offset % fmt.block_bytes:
        return None

    def find(expert: int) -> Piece:
        lines = tensor.view().reshape(*tensor.dims[:2], -1)[expert]
        size = fmt.block_bytes
        return Piece(lines[:, rows.start * size : rows.stop * size] if in_columns else lines[rows.start : rows.stop])

    return InPieces(held, [partial(find, expert) for expert in range(tensor.dims[0])])


def transposed(tensor: StoredTensor) -> Value:
    """A matrix, or those of all experts, with rows and columns exchanged."""
    *experts, rows, columns = tensor.dims
    in_place = _in_lines(tensor, range(columns), in_columns=True) if experts else None
    return Value(
        (*experts, columns, rows),
        format_of(tensor.dtype),
        lambda: _own(elements(tensor).swapaxes(-2, -1)),
        offset=tensor.offset,
        in_pieces=in_place,
    )


def mxfp4(blocks: StoredTensor, scales: StoredTensor, which: int | None) -> Value:
    """Matrices in MXFP4, [X, rows, columns / 32, 16] with scales [X, rows, columns / 32], in GGUF's order of nibbles.

    ``which``: every second row, from the first (gate) or the second one (up) on. A piece whose scales hold the code of NaN
    raises ModelFileError: kernels would take it for a number.
    """
    step = slice(None) if which is None else slice(which, None, 2)
    experts, rows, count, _ = blocks.dims
    own_rows = rows if which is None else rows // 2

    def make() -> Bytes:
        packed, exponents = elements(blocks)[:, step].astype(np.uint8), elements(scales)[:, step]
        # A byte holds two neighbours, the first in the low half; in GGUF it holds element i and element i + 16.
        values = np.stack((packed & 15, packed >> 4), axis=-1).reshape(experts, own_rows, count, _MXFP4_ELEMENTS)
        out = np.empty((experts, own_rows, count, 1 + _MXFP4_ELEMENTS // 2), np.uint8)
        out[..., 0] = exponents
        out[..., 1:] = values[..., :16] | (values[..., 16:] << 4)
        return out.reshape(-1)

    @cache
    def require_numbers(expert: int) -> None:
        if (scales.view().reshape(experts, -1)[expert] == _E8M0_NAN).any():
            raise ModelFileError(
                f"{scales.file.path}: tensor {shown(scales.name)} holds the scale {_E8M0_NAN} (expert {expert}), which is NaN in MXFP4; "
                "the file is damaged: get it again"
            )

    def find(expert: int) -> Piece:
        require_numbers(expert)
        return Piece(*(part.view().reshape(experts, rows, -1)[expert, step] for part in (blocks, scales)))

    in_place = InPieces(MXFP4_PAIRS, [partial(find, expert) for expert in range(experts)])
    dims = (experts, own_rows, count * _MXFP4_ELEMENTS)
    return Value(dims, BLOCK_FORMATS["MXFP4"], make, offset=blocks.offset, in_pieces=in_place)


def _own(values: npt.NDArray[np.generic]) -> Bytes:
    """The bytes of values in their order."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
