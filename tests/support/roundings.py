"""Rows of activations where roundings part: ties, zeros, outliers, what no scale can hold, NaN and Inf."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aprgraph.graph.roundings import ROUNDINGS

#: Rows of ``hard_rows``; schemes that are of short passes take some at a time.
ROWS = 12

#: Schemes that keep sums of blocks.
WITH_SUMS = [name for name, rounding in ROUNDINGS.items() if rounding.sum_errors is not None]


def hard_rows(columns: int) -> npt.NDArray[np.float32]:
    """f32 [ROWS, columns] of at least 256 columns."""
    rng = np.random.default_rng(23)
    x = rng.standard_normal((ROWS, columns)).astype(np.float32)
    x[rng.random(x.shape) < 0.01] *= 40
    x[0, :32] = 0
    x[0, 40] = -0.0
    x[1] = rng.integers(-127, 128, columns) / 2  # 127 / 63.5 is 2: half of these lie between two whole numbers
    x[1, ::32] = 63.5
    x[2] = -x[1]
    x[3, 5::32], x[3, 9::32] = -50, 50  # two elements of the largest magnitude
    x[4, 5::32], x[4, 9::32] = 50, -50
    x[5] *= 1e-39
    x[6] *= 1e-44
    x[7, 3], x[7, 300 % columns] = np.nan, np.inf
    x[8] *= 1e6  # scales and sums beyond float16
    x[9] *= 3e-6  # scales below the normal numbers of float16
    x[10] = np.ldexp(1 + rng.integers(0, 2**11, columns) / 2**11, rng.integers(-26, 17, columns))  # halves of float16
    x[11] = 0
    return x


def passes(name: str) -> list[slice]:
    """The rows of ``hard_rows`` in passes that the scheme ``name`` is for."""
    most = ROUNDINGS[name].most_rows or ROWS
    return [slice(start, start + most) for start in range(0, ROWS, most)]


def assert_same_bits(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float64]) -> None:
    """``got`` has the bits of ``wanted`` as float32, signs of zeros among them; NaN is NaN."""
    with np.errstate(all="ignore"):
        expected = wanted.astype(np.float32)
    known = ~np.isnan(expected)
    assert np.isnan(got[~known]).all()
    np.testing.assert_array_equal(got[known].view(np.int32), expected[known].view(np.int32))
