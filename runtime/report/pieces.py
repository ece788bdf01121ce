"""Reading two tensors together, in pieces: traces can be of gigabytes, and float64 copies must not be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.trace.aprt import F32

#: Elements of one piece.
PIECE = 1 << 18

F64 = npt.NDArray[np.float64]


def flat_pieces(*tensors: F32) -> Iterator[tuple[F64, ...]]:
    """The tensors (f32, all of one size, memory-mapped or not) side by side, f64 and flat, a piece at a time."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    # A signalling NaN raises the invalid flag when it is widened; it is counted all the same.
    with np.errstate(invalid="ignore"):
        for start in range(0, flat[0].size, PIECE):
            yield tuple(one[start : start + PIECE].astype(np.float64) for one in flat)


def difference(a: F64, b: F64) -> F64:
    """``a - b``; 0 where both are the same infinity or both NaN, NaN where one side is not finite and the other is something else."""
    with np.errstate(invalid="ignore", over="ignore"):
        result = a - b
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            result[~finite] = np.where(same[~finite], 0.0, np.nan)
    return result
