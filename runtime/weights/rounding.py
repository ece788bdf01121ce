"""How far a value that a format holds may be from the one that was rounded to it, from the layout of the format alone.

A quantiser replaces a value by the nearest level that its block has, so the error is at most half of the gap between two
levels. The gap is what one more in the integer code changes, which the format's own decoder tells: no table of errors
of formats is needed. Beyond the outermost level the error may be a whole gap, as in Q4_0, whose scale is -8 or 7 times
smaller than the largest element whichever its sign; and where the scale is itself rounded (6 bits in K-quants), what
half a unit of that changes at the outermost code comes on top. A quantiser that weighs elements by their importance
may cut off more there, so an element at the outermost codes is marked ``outer``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import decode_by_gguf
from aprgraph.graph.sources.source import TensorInfo
from aprgraph.runtime.check.scan_blocks import E8M0_SCALES
from aprgraph.runtime.check.surveyed_matrix import NONFINITE
from aprgraph.runtime.weights.block_codes import CodeReader, Codes, Scaled
from aprgraph.runtime.weights.decoded import Decoded, Sums, Values

#: Half a unit in the last place of what a scale is rounded to, relative and (subnormal) absolute.
_HALF_ULP_F16, _LEAST_F16 = 2.0**-11, 2.0**-25
#: By dtype: half a unit in the last place, relative, and of subnormals.
_PLAIN = {"float32": (2.0**-24, 2.0**-150), "float16": (_HALF_ULP_F16, _LEAST_F16), "bfloat16": (2.0**-8, 2.0**-134)}
#: Of FP8 the same, the second as a share of the largest value of a row: scales make that the largest of the format, or more.
_FP8 = {"F8_E4M3": (2.0**-4, 2.0**-10 / 448), "F8_E5M2": (2.0**-3, 2.0**-17 / 57344)}
#: Elements that are judged together of FP8, and of packed integers.
_UNIT_OF_DECODED = 32
#: A code of R bits an element cannot keep the mean square error of normal values below 2^(-2R) of their mean square (Shannon's
#: rate-distortion bound). Codebooks of ggml come within 4 times of that with normal values (IQ2_XXS 2, IQ3_S and IQ3_XXS 3), and
#: within 8 times with heavier tails.
_CODEBOOK_FACTOR = 8.0


def decode_rows(fmt: BlockFormat, raw: npt.NDArray[np.uint8], columns: int) -> Decoded:
    """Decode ``raw`` u8 [rows, bytes of a row] to f32 [rows, ``columns``], with the radius of rounding of each element."""
    shape = (len(raw), columns)
    if fmt.is_plain:
        dtype = ml_dtypes.bfloat16 if fmt.fields[0].dtype == "bfloat16" else np.dtype(fmt.fields[0].dtype)
        relative, least = _PLAIN[fmt.fields[0].dtype]
        with np.errstate(invalid="ignore"):  # NaN that signals
            values = np.ascontiguousarray(raw).view(dtype).astype(np.float32)
        return _in_proportion(values, relative, least)
    if fmt.decode is None:
        values = decode_by_gguf(fmt, raw, shape)
        return Decoded(values, _codebook_radius(fmt, values), np.ones(shape, np.bool_))
    return _decode_blocks(fmt, np.ascontiguousarray(raw).reshape(-1, fmt.block_bytes), shape)


def unit_of(info: TensorInfo) -> int:
    """How many elements of a row are judged together."""
    return _UNIT_OF_DECODED if info.stored in _FP8 or info.radius is not None else info.format.elements


def as_stored(decoded: Decoded, stored: str) -> Decoded:
    """With the rounding of the dtype ``stored``, from which the values were decoded."""
    if stored not in _FP8:
        return decoded
    relative, least = _FP8[stored]
    sizes = np.abs(decoded.values)
    radius = sizes * np.float32(relative) + sizes.max(axis=1, keepdims=True, initial=0) * np.float32(least)
    return Decoded(decoded.values, radius, decoded.outer)


def _in_proportion(values: Values, relative: float, least: float) -> Decoded:
    """Values of which each was rounded to some digits."""

    def radius() -> tuple[Values, None]:
        with np.errstate(invalid="ignore"):
            return np.abs(values) * np.float32(relative) + np.float32(least), None

    def squares(unit: int, energies: Sums) -> Sums:
        # Of the product in the middle, what it is at most (Cauchy-Schwarz).
        with np.errstate(invalid="ignore", over="ignore"):
            found: Sums = np.square(relative * np.sqrt(energies) + least * math.sqrt(unit))
        return found

    return Decoded(values, radius, squares=squares)


def _codebook_radius(fmt: BlockFormat, values: Values) -> Values:
    blocks = values.reshape(-1, fmt.elements)
    bits = 8 * fmt.block_bytes / fmt.elements
    share = min(1.0, _CODEBOOK_FACTOR * 2.0 ** (-2 * bits))
    # An error that is uniform within the radius has a third of its square as its mean square.
    radius = np.sqrt(3 * share * np.square(blocks).mean(axis=1, keepdims=True, dtype=np.float32))
    return np.broadcast_to(radius, blocks.shape).reshape(values.shape)


def _decode_blocks(fmt: BlockFormat, blocks: npt.NDArray[np.uint8], shape: tuple[int, int]) -> Decoded:
    assert fmt.decode is not None
    runs = fmt.elements // RUN
    codes = np.empty((len(blocks), runs, RUN), np.int8)
    scales = np.empty((len(blocks), runs, 1), np.float32)
    offsets = np.zeros_like(scales)
    reader, levels = CodeReader(fmt, blocks), _levels(fmt)
    gaps: list[_Gaps] = []
    lane = np.arange(RUN)
    for run in range(runs):
        reader.shift = 0.0
        found: Scaled = fmt.decode(reader, run * RUN, lane)
        codes[:, run], scales[:, run] = reader.codes, found.scale
        if found.offset is not None:
            offsets[:, run] = found.offset
        gaps.append(_gaps(fmt, reader, run * RUN, found, levels))
    values = codes.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        values *= scales
        if found.offset is not None:
            values += offsets
    if fmt.name in E8M0_SCALES:  # decoders take NaN for the next power of two
        values[blocks[:, fmt.offset(E8M0_SCALES[fmt.name])] == NONFINITE] = np.nan
    every = _Gaps(*(np.stack([getattr(one, name) for one in gaps], axis=1) for name in ("step", "inside", "at_end", "rounded")))

    def is_outer() -> npt.NDArray[np.bool_]:
        return np.asarray((codes == levels.lowest) | (codes == levels.highest))

    def radius() -> tuple[Values, npt.NDArray[np.bool_]]:
        outer = is_outer()
        if reader.table is None:
            found = np.where(outer, every.at_end, every.inside)
        else:
            found = every.step * levels.half_of(codes) + np.where(outer, every.at_end - every.step, every.rounded)
        return np.asarray(found.reshape(shape), np.float32), outer.reshape(shape)

    def squares(unit: int, _: Sums) -> Sums:
        inside, at_end = (np.square(side[..., 0].astype(np.float64)) for side in (every.inside, every.at_end))
        outermost = _ones_of(is_outer())
        of_runs: Sums = np.where(outermost > 0, (RUN - outermost) * inside + outermost * at_end, RUN * inside)
        return np.asarray(of_runs.reshape(shape[0], shape[1] // unit, unit // RUN).sum(axis=-1))

    return Decoded(values.reshape(shape), radius, squares=squares if reader.table is None else None)


def _ones_of(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """How many of each run of 16 are true: eight at once, as bytes of an integer that are summed by a product."""
    words = np.ascontiguousarray(flags).view(np.uint64)
    return np.asarray((words * np.uint64(0x0101010101010101) >> np.uint64(56)).sum(axis=-1), np.int64)


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
    """The values of the codes of a format, from ``lowest`` to ``highest``; ``half_gaps`` are half gaps by value, counted from
    ``lowest``, at both ends a whole one, in units of what one more changes. ``least`` is what the rounding of a subnormal scale
    may change of an element.
    """

    lowest: int
    highest: int
    half_gaps: Values
    least: float

    def half_of(self, codes: Codes) -> Values:
        """Half gaps by code."""
        return np.asarray(self.half_gaps[codes.astype(np.int64) - self.lowest])


@cache
def _levels(fmt: BlockFormat) -> _Levels:
    assert fmt.decode is not None
    # Random bytes hold every code of at most 8 bits.
    blocks = np.random.default_rng(0).integers(0, 256, (4096, fmt.block_bytes), dtype=np.uint8)
    for field in fmt.fields:  # scales of 1: NaN would only be in the way
        if field.dtype == "float16":
            at = fmt.offset(field.name)
            blocks[:, at : at + 2 * field.count] = np.ones(field.count, "<f2").view(np.uint8)
    reader, seen = CodeReader(fmt, blocks), np.zeros(256, np.bool_)
    for first in range(0, fmt.elements, RUN):
        with np.errstate(over="ignore"):
            fmt.decode(reader, first, np.arange(RUN))
        seen[reader.codes.astype(np.int64) + 128] = True
    distinct = np.flatnonzero(seen) - 128
    gaps = np.diff(distinct)
    halves = np.maximum(np.append(gaps, 0), np.insert(gaps, 0, 0)) / 2
    halves[0], halves[-1] = gaps[0], gaps[-1]
    lowest, highest = int(distinct[0]), int(distinct[-1])
    half_gaps = np.zeros(highest - lowest + 1, np.float32)
    half_gaps[distinct - lowest] = halves
    is_f16 = any(field.dtype == "float16" for field in fmt.fields)
    least = _LEAST_F16 * max(abs(lowest), abs(highest)) * reader.largest_scale if is_f16 else 0.0
    return _Levels(lowest, highest, half_gaps, least)


def _gaps(fmt: BlockFormat, reader: CodeReader, first: int, found: Scaled, levels: _Levels) -> _Gaps:
    """How far elements of the runs from ``first`` on may have been."""
    decode = fmt.decode
    assert decode is not None

    def ends(one: Scaled) -> tuple[Values, Values]:
        offset = np.float32(0) if one.offset is None else one.offset
        low, high = (one.scale * np.float32(end) + offset for end in (levels.lowest, levels.highest))
        return low, high

    with np.errstate(invalid="ignore", over="ignore"):
        low, high = ends(found)
        step = np.abs(high - low) / np.float32(levels.highest - levels.lowest)
        rounded = np.maximum(np.abs(low), np.abs(high)) * np.float32(_HALF_ULP_F16) + np.float32(levels.least)
        if not reader.has_scales:
            return _Gaps(step, step / 2 + rounded, step + rounded, rounded)
        reader.shift = 0.5
        shifted = ends(decode(reader, first, np.arange(RUN)))
        beyond = np.abs(shifted[0] - low) + np.abs(shifted[1] - high)
        # Where the scale itself was rounded to 0, every code is an outermost one.
        inside = np.where(step == 0, beyond, step / 2) + rounded
        return _Gaps(step, inside, step + beyond + rounded, rounded + np.where(step == 0, beyond, 0))
