"""Looks at the blocks of quantised formats: at their scales, and at all of a block only where it seems to be empty."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_format import BlockFormat, Field
from aprgraph.graph.block_formats import decode_reference
from aprgraph.runtime.check.surveyed_matrix import NONFINITE, OCTAVES, Place, SurveyedMatrix

#: Exponents of float16 as octaves; subnormal numbers are counted in that of the smallest normal one less one.
_F16_TO_OCTAVE = 127 - 15
#: By format: a scale that is an exponent by itself (E8M0 of the OCP Microscaling Formats specification 1.0), where 255 is NaN.
E8M0_SCALES = {"MXFP4": "e"}


@cache
def _layout(fmt: BlockFormat) -> np.dtype[Any]:
    """A block as a record of its scales, as bits, and of the first and the last byte of its longest field."""
    names, formats, offsets = [], [], []
    for field in scale_fields(fmt):
        names.append(field.name)
        formats.append("<u2" if field.dtype == "float16" else "u1")
        offsets.append(fmt.offset(field.name))
    start, stop = _quants_range(fmt)
    for name, offset in (("first", start), ("last", stop - 1)):
        names.append(name)
        formats.append("u1")
        offsets.append(offset)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": fmt.block_bytes})


@cache
def scale_fields(fmt: BlockFormat) -> tuple[Field, ...]:
    """The fields of a block that can hold NaN, or make all of it absurd."""
    return tuple(field for field in fmt.fields if field.dtype == "float16" or field.name == E8M0_SCALES.get(fmt.name))


@cache
def _quants_range(fmt: BlockFormat) -> tuple[int, int]:
    """Where in a block the field lies that holds most of its elements' bits."""
    quants = max(fmt.fields, key=lambda field: field.count * field.itemsize)
    start = fmt.offset(quants.name)
    return start, start + quants.count * quants.itemsize


def scan_blocks(found: SurveyedMatrix, fmt: BlockFormat, raw: npt.NDArray[np.uint8], row: int) -> None:
    """Look at whole rows, ``raw`` u8 [rows, bytes of a row], the first of which is row ``row`` of the matrix."""
    rows, across = len(raw), raw.shape[1] // _layout(fmt).itemsize
    blocks = raw.reshape(-1).view(_layout(fmt))
    zero: npt.NDArray[np.bool_] | None = None
    for index, field in enumerate(scale_fields(fmt)):
        bits = blocks[field.name]
        if field.dtype == "float16":
            size = bits & 0x7FFF
            counts = np.bincount(size >> 10, minlength=32)
            octaves = np.zeros(OCTAVES, np.int64)
            octaves[_F16_TO_OCTAVE : _F16_TO_OCTAVE + 31] = counts[:31]
            is_zero = size == 0
            zeros = int(np.count_nonzero(is_zero)) if counts[0] else 0
            octaves[_F16_TO_OCTAVE] -= zeros
            if counts[31]:
                _see_nonfinite(found, size > 0x7C00, size == 0x7C00, row, across, fmt)
            found.normal |= bool(counts[1:31].any())
            zero = (is_zero if index == 0 else zero & is_zero if zero is not None else None) if zeros else None
        else:
            octaves = np.bincount(bits, minlength=OCTAVES)
            found.normal = True
            if octaves[NONFINITE]:
                _see_nonfinite(found, bits == NONFINITE, np.zeros(len(bits), bool), row, across, fmt)
            octaves[NONFINITE] = 0
        found.add_octaves(field.name, octaves)
    zero = _see_flat(found, fmt, raw, blocks, zero)
    found.add_zeros(row, None if zero is None else zero.reshape(rows, across), rows)


def octaves_of_blocks(fmt: BlockFormat, name: str, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The octave of the scale ``name`` of each block [rows, blocks of a row]; 0 of what is not finite."""
    bits = raw.reshape(-1).view(_layout(fmt))[name].reshape(len(raw), -1)
    if fmt.field(name).dtype == "float16":
        exponents = ((bits >> 10) & 31).astype(np.int64)
        return np.where(exponents == 31, 0, exponents + _F16_TO_OCTAVE)
    return np.where(bits == NONFINITE, 0, bits).astype(np.int64)


def _see_nonfinite(
    found: SurveyedMatrix, nan: npt.NDArray[np.bool_], inf: npt.NDArray[np.bool_], row: int, across: int, fmt: BlockFormat
) -> None:
    found.nan += int(np.count_nonzero(nan))
    found.inf += int(np.count_nonzero(inf))
    for block in np.flatnonzero(nan | inf)[:8]:
        start = int(block) % across * fmt.elements
        found.add_place(Place(row + int(block) // across, start, start + fmt.elements, found.index))


def _see_flat(
    found: SurveyedMatrix, fmt: BlockFormat, raw: npt.NDArray[np.uint8], blocks: npt.NDArray[Any], zero: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.bool_] | None:
    """``zero`` with the blocks whose scales are not 0 and whose elements all are. Also whether all elements are one number."""
    flat = blocks["first"] == blocks["last"]
    if zero is not None:
        flat &= ~zero
    candidates = np.flatnonzero(flat)
    start, stop = _quants_range(fmt)
    inside = raw.reshape(-1, _layout(fmt).itemsize)[candidates]
    even = (inside[:, start:stop] == inside[:, start : start + 1]).all(axis=1)
    candidates, inside = candidates[even], inside[even]
    if not candidates.size:
        found.add_value(0.0 if zero is not None and zero.all() else None)
        return zero
    values = decode_reference(fmt, inside, (len(inside), fmt.elements))
    with np.errstate(invalid="ignore"):
        levels = np.where(np.ptp(values, axis=1) == 0, values[:, 0], np.nan)
    empty = candidates[levels == 0]
    if empty.size:
        zero = np.zeros(len(blocks), bool) if zero is None else zero
        zero[empty] = True
    zeros = 0 if zero is None else int(np.count_nonzero(zero))
    distinct = {*levels[levels != 0].tolist(), *((0.0,) if zeros else ())}
    whole = zeros + np.count_nonzero(levels) == len(blocks) and not np.isnan(levels).any()
    found.add_value(distinct.pop() if whole and len(distinct) == 1 else None)
    return zero
