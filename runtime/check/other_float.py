"""Whether the numbers of a matrix are the bits of the other 16-bit format: BF16 that was taken for F16, or the reverse.

BF16 has eight bits of exponent and F16 five, so that what is read as the wrong one is not merely scaled. Of BF16 the exponents of all
usual weights begin with the same bits: as F16, every element lies within a few octaves below 2, and none near 0. Of F16, each octave
becomes eight: as BF16, usual weights are spread over dozens of octaves below 1e-9.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.runtime.check.finding import Finding
from aprgraph.runtime.check.survey import SurveyedTensor

Reals = npt.NDArray[np.float32]

#: Fewer elements say nothing of how they are spread; in a tensor of so many zeros they are not looked at.
_LEAST, _MOST_ZEROS = 512, 0.05
#: The octaves in which the median of weights lies.
_LEAST_MEDIAN, _MOST_MEDIAN = 2.0**-14, 4.0
#: Of normal values 13 % are below a quarter of the median, and 0.7 % beyond four times that; of Laplace's 16 % and 6 %; of values that
#: are spread over many octaves alike nearly a half each.
_BELOW, _BEYOND = (0.05, 0.30), 0.12
#: BF16 as F16: no more than so many elements are below a quarter of the median. F16 as BF16: the median is below that.
_NONE, _TINY = 0.005, 2.0**-20
_HALVES: dict[str, Any] = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}


def judge_bits(found: SurveyedTensor) -> Iterator[Finding]:
    """The finding of a matrix of F16, BF16 or F32 whose values can only be bits of the other 16-bit format."""
    values = found.some
    if found.is_vector or values is None or values.size < _LEAST or np.mean(values == 0) > _MOST_ZEROS or not np.isfinite(values).all():
        return
    for taken, meant in (("F16", "BF16"), ("BF16", "F16")):
        read = _read_as(values, taken, meant)
        if read is None or not _is_like_weights(read):
            continue
        below, median, _ = _spread(values)
        if below <= _NONE and _LEAST_MEDIAN <= median <= _MOST_MEDIAN if taken == "F16" else median < _TINY:
            size = np.abs(values[values != 0])
            low, high = (float(np.quantile(size, share)) for share in (0.01, 0.99))
            text = (
                f"as {taken}, 98% of its elements are between {low:.2g} and {high:.2g} in size; the same bits as {meant} are weights of "
                f"about {_spread(read)[1]:.2g}"
            )
            yield Finding.of("weight-other-float", found.info.name, text)


def _read_as(values: Reals, taken: str, meant: str) -> Reals | None:
    """The bits that the values have in ``taken``, as those of ``meant``; None where ``taken`` cannot hold them."""
    with np.errstate(over="ignore", invalid="ignore"):
        halves = values.astype(_HALVES[taken])
        if not np.array_equal(halves.astype(np.float32), values):
            return None
        return np.asarray(halves.view(_HALVES[meant]), np.float32)


def _is_like_weights(values: Reals) -> bool:
    """Whether values are spread as weights are: most near a median of usual size, some near 0, few far beyond."""
    if not np.isfinite(values).all() or np.mean(values == 0) > _MOST_ZEROS:
        return False
    below, median, beyond = _spread(values)
    return _LEAST_MEDIAN <= median <= _MOST_MEDIAN and _BELOW[0] <= below <= _BELOW[1] and beyond <= _BEYOND


def _spread(values: Reals) -> tuple[float, float, float]:
    """The median of the sizes that are not 0, and before and behind it how many are below a quarter of it, and beyond four times it."""
    size = np.abs(values[values != 0])
    median = float(np.median(size))
    return float(np.mean(size < median / 4)), median, float(np.mean(size > median * 4))
