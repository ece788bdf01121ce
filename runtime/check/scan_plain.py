"""Looks at matrices of plain numbers: at every element, by its bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.check.surveyed_matrix import KEPT, LEAST_UNITS, OCTAVES, Place, SurveyedMatrix

#: By dtype: the unsigned integer of its size, how many bits its fraction has, and its exponent's bias.
_LAYOUT = {"float32": ("<u4", 23, 127), "float16": ("<u2", 10, 15), "bfloat16": ("<u2", 7, 127)}


def scan_plain(found: SurveyedMatrix, dtype: str, raw: npt.NDArray[np.uint8], row: int) -> None:
    """Look at whole rows, ``raw`` u8 [rows, bytes of a row], the first of which is row ``row`` of the matrix."""
    unsigned, fraction, bias = _LAYOUT[dtype]
    bits = raw.view(unsigned)
    every = bits.dtype.type((1 << bits.dtype.itemsize * 8 - 1) - 1)
    infinite = every >> fraction << fraction
    size = bits & every
    largest, across = size.max(axis=1), size.max(axis=0)
    if largest.max() >= infinite:
        _see_nonfinite(found, size, infinite, row)
        largest = np.where(largest >= infinite, 0, largest)
    units = largest if found.rows >= LEAST_UNITS else np.where(size >= infinite, 0, size).ravel()
    octaves = (units[units > 0] >> fraction).astype(np.int64) + (127 - bias)
    found.add_octaves("x", np.bincount(octaves, minlength=OCTAVES))
    found.normal |= bool((largest >> fraction).any())
    zero = None if across.all() and largest.all() else size == 0
    found.add_zeros(row, zero, len(bits))
    first = bits.flat[0]
    equal = largest[0] == largest[-1] == size[0, -1] and bool((bits == first).all())
    found.add_value(_value(first, dtype) if equal else None)


def octaves_of_elements(dtype: str, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The octave of each element [rows, columns]; 0 of what is not finite."""
    unsigned, fraction, bias = _LAYOUT[dtype]
    bits = raw.view(unsigned)
    largest = (1 << bits.dtype.itemsize * 8 - 1 - fraction) - 1
    exponents = ((bits >> fraction) & largest).astype(np.int64)
    return np.where(exponents == largest, 0, exponents + 127 - bias)


def _see_nonfinite(found: SurveyedMatrix, size: npt.NDArray[Any], infinite: Any, row: int) -> None:
    found.nan += int(np.count_nonzero(size > infinite))
    found.inf += int(np.count_nonzero(size == infinite))
    for at, column in np.argwhere(size >= infinite)[:KEPT].tolist():
        found.add_place(Place(row + at, column, column + 1, found.index))


def _value(bits: Any, dtype: str) -> float:
    if dtype == "bfloat16":
        return float((np.uint32(bits) << 16).view(np.float32))
    return float(bits.view(np.dtype(dtype)))
