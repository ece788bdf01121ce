"""Floats of 16 bits that were saved as whole numbers, as a tensor's bits are where the array library has no such type.

NumPy has no bfloat16, so programs write ``tensor.view(torch.uint16).numpy()``, or copy the bytes. Which of the two formats the bits are
of, the numbers tell: without its sign, a word m is about log2 |x| in both, as m / 128 - 127 in bfloat16 and m / 1024 - 15 in float16. The
middle half of a tensor's elements spans some two octaves (1.85 of normal values), so 240 words in bfloat16 and 1,900 in float16.
Weights of attention, and scores behind a mask, span many more, and tell nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_SIGN = 0x7FFF
#: Words of an octave, and of 1.
_BFLOAT16, _FLOAT16 = (128, 127 * 128), (1024, 15 * 1024)
#: Infinity in float16: words beyond are NaN.
_INFINITE = 0x7C00
#: The middle half spans at most so many octaves of bfloat16, or at least so many. Six are 0.75 of float16, too few of it; ten are 1.25.
_MOST_OCTAVES, _LEAST_OCTAVES = 6, 10
#: So far from 1, in octaves, the median of what a model computes may lie; of bfloat16 as far as float16 would be farther off.
_FAR = {"bfloat16": 8, "float16": 13}
#: A word that so many elements share is no sample of them, such as what stands for a mask.
_SHARED = 0.05
#: Elements of each tensor that are looked at.
_LOOKED_AT = 1 << 14
_TYPES: dict[str, Any] = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def may_be_bits(array: Array) -> bool:
    """Whether an array holds whole numbers of 16 bits."""
    return array.dtype.kind in "iu" and array.dtype.itemsize == 2


def format_of_bits(arrays: Iterable[Array]) -> str | None:
    """The format whose bits all ``arrays`` of 16-bit whole numbers hold, ``bfloat16`` or ``float16``; None where that is not certain."""
    spans, medians, has_nan = [], [], False
    for array in arrays:
        flat = array.reshape(-1)
        some = np.ascontiguousarray(flat[:: max(flat.size // _LOOKED_AT, 1)], flat.dtype.newbyteorder("="))
        words = some.view(np.uint16) & _SIGN
        words = words[words != 0]
        known, counts = np.unique(words, return_counts=True)
        words = words[~np.isin(words, known[counts > max(_SHARED * words.size, 1)])]
        if words.size:
            low, middle, high = np.percentile(words, (25, 50, 75))
            spans.append(float(high - low))
            medians.append(float(middle))
            has_nan |= bool((words > _INFINITE).mean() > 0.01)
    if not spans:
        return None
    octaves, median = float(np.median(spans)) / _BFLOAT16[0], float(np.median(medians))
    name = "bfloat16" if octaves <= _MOST_OCTAVES else "float16" if octaves >= _LEAST_OCTAVES and not has_nan else None
    if name is None:
        return None
    unit, one = _BFLOAT16 if name == "bfloat16" else _FLOAT16
    return name if octaves > 0 and abs(median - one) / unit <= _FAR[name] else None


def floats_of(array: Array, name: str) -> Array:
    """The numbers whose bits ``array`` holds, in the format ``name``."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(_TYPES[name])
