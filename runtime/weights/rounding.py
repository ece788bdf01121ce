"""How far a value that a format holds may be from the one that was rounded to it, from the layout of the format alone.

A quantiser replaces a value by the nearest level that its block has, so the error is at most half of the gap between two
levels. The gap is what one more in the integer code changes, which the format's own decoder tells: no table of errors
of formats is needed. Beyond the outermost level the error may be a whole gap, as in Q4_0, whose scale is -8 or 7 times
smaller than the largest element whichever its sign; and where the scale is itself rounded (6 bits in K-quants), what
half a unit of that changes at the outermost code comes on top. A quantiser that weighs elements by their importance
may cut off more there, so an element at the outermost codes is marked ``outer``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_formats import BlockFormat, NumpyBlocks, decode_by_gguf

Values = npt.NDArray[np.float32]

#: Half a unit in the last place of what a scale is rounded to, relative and (subnormal) absolute.
_HALF_ULP_F16, _LEAST_F16 = 2.0**-11, 2.0**-25
#: By dtype: half a unit in the last place, relative, and of subnormals.
_PLAIN = {"float32": (2.0**-24, 2.0**-150), "float16": (_HALF_ULP_F16, _LEAST_F16), "bfloat16": (2.0**-8, 2.0**-134)}
#: Of FP8 the same, the second as a share of the largest value of a row: scales make that the largest of the format, or more.
_FP8 = {"F8_E4M3": (2.0**-4, 2.0**-10 / 448), "F8_E5M2": (2.0**-3, 2.0**-17 / 57344)}
#: Elements of FP8 that are judged together.
_UNIT_OF_FP8 = 32
#: A code of R bits an element cannot keep the mean square error of normal values below 2^(-2R) of their mean square (Shannon's
#: rate-distortion bound). Codebooks of ggml come within 4 times of that with normal values (IQ2_XXS 2, IQ3_S and IQ3_XXS 3), and
#: within 8 times with heavier tails.
_CODEBOOK_FACTOR = 8.0


@dataclass(frozen=True)
class Decoded:
    """Rows of a tensor: ``values`` [rows, columns] in f32, and how far the rounded values may have been, ``radius``.

    ``outer`` are the elements that may have been cut off by more than that; None if there are none.
    """

    values: Values
    radius: Values
    outer: npt.NDArray[np.bool_] | None = None


def decode_rows(fmt: BlockFormat, raw: npt.NDArray[np.uint8], columns: int) -> Decoded:
    """Decode ``raw`` u8 [rows, bytes of a row] to f32 [rows, ``columns``], with the radius of rounding of each element."""
    shape = (len(raw), columns)
    if fmt.is_plain:
        dtype = ml_dtypes.bfloat16 if fmt.fields[0].dtype == "bfloat16" else np.dtype(fmt.fields[0].dtype)
        relative, least = _PLAIN[fmt.fields[0].dtype]
        with np.errstate(invalid="ignore"):  # NaN that signals
            values = np.ascontiguousarray(raw).view(dtype).astype(np.float32)
            return Decoded(values, np.abs(values) * np.float32(relative) + np.float32(least))
    if fmt.decode is None:
        values = decode_by_gguf(fmt, raw, shape)
        return Decoded(values, _codebook_radius(fmt, values), np.ones(shape, np.bool_))
    return _decode_blocks(fmt, np.ascontiguousarray(raw).reshape(-1, fmt.block_bytes), shape)


def unit_of(fmt: BlockFormat, stored: str) -> int:
    """How many elements of a row are rounded together; ``stored`` is what they were decoded from before (``TensorInfo``)."""
    return _UNIT_OF_FP8 if stored in _FP8 else fmt.elements


def as_stored(decoded: Decoded, stored: str) -> Decoded:
    """With the rounding of the dtype ``stored``, from which the values were decoded."""
    if stored not in _FP8:
        return decoded
    relative, least = _FP8[stored]
    sizes = np.abs(decoded.values)
    radius = sizes * np.float32(relative) + sizes.max(axis=1, keepdims=True, initial=0) * np.float32(least)
    return Decoded(decoded.values, radius, decoded.outer)


def _codebook_radius(fmt: BlockFormat, values: Values) -> Values:
    blocks = values.reshape(-1, fmt.elements)
    bits = 8 * fmt.block_bytes / fmt.elements
    share = min(1.0, _CODEBOOK_FACTOR * 2.0 ** (-2 * bits))
    # An error that is uniform within the radius has a third of its square as its mean square.
    radius = np.sqrt(3 * share * np.square(blocks).mean(axis=1, keepdims=True, dtype=np.float32))
    return np.broadcast_to(radius, blocks.shape).reshape(values.shape)


def _decode_blocks(fmt: BlockFormat, blocks: npt.NDArray[np.uint8], shape: tuple[int, int]) -> Decoded:
    assert fmt.decode is not None
    values = np.empty((len(blocks), fmt.elements), np.float32)
    radius = np.empty_like(values)
    outer = np.empty(values.shape, np.bool_)
    reader = _CodeReader(fmt, blocks)
    lane, levels = np.arange(RUN), _levels(fmt)
    for first in range(0, fmt.elements, RUN):
        reader.stand_in, reader.shift = None, 0.0
        run = slice(first, first + RUN)
        values[:, run] = fmt.decode(reader, first, lane)
        code = reader.codes
        gaps = _gaps(fmt, reader, first, lane, levels)
        if reader.table is None:
            outer[:, run] = (code == levels.lowest) | (code == levels.highest)
            radius[:, run] = np.where(outer[:, run], gaps.at_end, gaps.inside)
        else:
            outer[:, run] = levels.is_end[code]
            radius[:, run] = gaps.step * levels.halves[code] + np.where(outer[:, run], gaps.at_end - gaps.step, gaps.rounded)
    return Decoded(values.reshape(shape), radius.reshape(shape), outer.reshape(shape))


@dataclass(frozen=True)
class _Gaps:
    """Of runs of a block, [blocks, 1]: what one more in a code changes, and how far an element may have been.

    ``rounded`` is what the rounding of the scales changes of any element.
    """

    step: Values
    inside: Values
    at_end: Values
    rounded: Values


@dataclass(frozen=True)
class _Levels:
    """The codes of a format, from ``lowest`` to ``highest``, or indices of a table of values, whose ``ends`` are the outermost.

    Of a table, ``halves`` are half gaps by code, at both ends a whole one, in units of what one more in a value changes.
    ``least`` is what the rounding of a subnormal scale may change of an element.
    """

    lowest: int
    highest: int
    halves: Values
    is_end: npt.NDArray[np.bool_]
    ends: tuple[float, float]
    least: float


@cache
def _levels(fmt: BlockFormat) -> _Levels:
    assert fmt.decode is not None
    # Random bytes hold every code of at most 8 bits.
    blocks = np.random.default_rng(0).integers(0, 256, (4096, fmt.block_bytes), dtype=np.uint8)
    for field in fmt.fields:  # scales of 1: NaN would only be in the way
        if field.dtype == "float16":
            at = fmt.offset(field.name)
            blocks[:, at : at + 2 * field.count] = np.ones(field.count, "<f2").view(np.uint8)
    reader, lowest, highest = _CodeReader(fmt, blocks), 1 << 30, -(1 << 30)
    for first in range(0, fmt.elements, RUN):
        with np.errstate(over="ignore"):
            fmt.decode(reader, first, np.arange(RUN))
        lowest, highest = min(lowest, int(reader.codes.min())), max(highest, int(reader.codes.max()))
    codes = np.arange(lowest, highest + 1)
    values = codes.astype(np.float32) if reader.table is None else np.array(reader.table, np.float32)
    distinct = np.unique(values)
    gaps = np.diff(distinct)
    halves = np.maximum(np.append(gaps, 0), np.insert(gaps, 0, 0)) / 2
    halves[0], halves[-1] = gaps[0], gaps[-1]
    at_end = np.zeros(len(distinct), np.bool_)
    at_end[0] = at_end[-1] = True
    where = np.searchsorted(distinct, values)
    ends = (float(distinct[0]), float(distinct[-1]))
    is_f16 = any(field.dtype == "float16" for field in fmt.fields)
    least = _LEAST_F16 * max(map(abs, ends)) * reader.largest_scale if is_f16 else 0.0
    return _Levels(lowest, highest, halves[where].astype(np.float32), at_end[where], ends, least)


def _gaps(fmt: BlockFormat, reader: _CodeReader, first: int, lane: Any, levels: _Levels) -> _Gaps:
    """How far elements of the runs from ``first`` on may have been."""
    decode = fmt.decode
    assert decode is not None

    def decoded(code: float, shift: float) -> Values:
        reader.stand_in, reader.shift = code, shift
        found: Values = decode(reader, first, lane)
        return found

    low, high = (decoded(end, 0.0) for end in levels.ends)
    step = np.abs(high - low) / np.float32(levels.ends[1] - levels.ends[0])
    rounded = np.maximum(np.abs(low), np.abs(high)) * np.float32(_HALF_ULP_F16) + np.float32(levels.least)
    if not reader.has_scales:
        return _Gaps(step, step / 2 + rounded, step + rounded, rounded)
    beyond = np.abs(decoded(levels.ends[0], 0.5) - low) + np.abs(decoded(levels.ends[1], 0.5) - high)
    # Where the scale itself was rounded to 0, every code is an outermost one.
    inside = np.where(step == 0, beyond, step / 2) + rounded
    return _Gaps(step, inside, step + beyond + rounded, rounded + np.where(step == 0, beyond, 0))


class _CodeReader(NumpyBlocks):
    """Reads blocks in f32, and knows which integers are codes: those that there are RUN of in a run of elements.

    ``stand_in`` takes the place of every code, ``shift`` is added to the integers that scale or shift all of a run.
    """

    def __init__(self, fmt: BlockFormat, blocks: npt.NDArray[np.uint8]) -> None:
        super().__init__(fmt, blocks)
        self.codes: npt.NDArray[np.int32] = np.zeros((0, RUN), np.int32)
        self.table: tuple[int, ...] | None = None
        self.stand_in: float | None = None
        self.shift = 0.0
        self.largest_scale = 1.0
        self.has_scales = False

    def real(self, field: str, index: Any = 0) -> Any:
        return super().real(field, index).astype(np.float32)

    def to_real(self, value: Any) -> Any:
        if value.shape[-1] != RUN:
            self.has_scales = True
            self.largest_scale = max(self.largest_scale, float(np.abs(value).max()))
            return value.astype(np.float32) + np.float32(self.shift)
        if self.stand_in is not None:
            return np.full((len(value), 1), self.stand_in, np.float32)
        if self.table is None:
            self.codes = value
        return value.astype(np.float32)

    def lookup(self, table: tuple[int, ...], index: Any) -> Any:
        self.table = table
        self.codes = index
        return super().lookup(table, index)

    def power_of_two(self, exponent: Any) -> Any:
        return super().power_of_two(exponent).astype(np.float32)
