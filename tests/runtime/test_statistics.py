"""Summary statistics: of arrays by NumPy, and of tapped tensors by the kernel."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from aprgraph.runtime.trace import statistics
from aprgraph.runtime.trace.statistics import Statistics, compute_statistics, statistics_from_sums

MIXED = np.array([[1.0, -3.0, np.nan], [np.inf, 2.0, -np.inf]], np.float32)


def test_finite_values() -> None:
    found = compute_statistics(np.array([[3.0, -4.0], [0.0, 1.0]], np.float32))
    assert found == Statistics(count=4, min=-4.0, max=3.0, mean=0.0, rms=math.sqrt(26 / 4), nan=0, inf=0)
    assert found.is_finite


def test_nan_and_inf_are_counted_and_left_out() -> None:
    found = compute_statistics(MIXED)
    assert found == Statistics(count=6, min=-3.0, max=2.0, mean=0.0, rms=math.sqrt(14 / 3), nan=1, inf=2)
    assert not found.is_finite


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, np.nan]])
def test_nothing_finite(values: list[float]) -> None:
    found = compute_statistics(np.array(values, np.float32))
    assert (found.min, found.max, found.mean, found.rms) == (None, None, None, None)
    assert found.count == len(values)


def test_sums_are_in_float64() -> None:
    """A float32 sum of these loses the ones; a float32 square of these is Inf."""
    values = np.concatenate([np.array([2.0**30], np.float32), np.ones(1 << 12, np.float32)])
    assert compute_statistics(values).mean == (2.0**30 + 4096) / 4097
    large = compute_statistics(np.full(4, 3e38, np.float32))
    assert large.rms == pytest.approx(3e38)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(-8, 8, 1000).astype(np.float32)
    values[[3, 500, 999]] = np.nan
    whole = compute_statistics(values)
    monkeypatch.setattr(statistics, "_CHUNK", 7)
    assert compute_statistics(values) == whole


def test_json_keeps_everything() -> None:
    for values in (MIXED, np.empty(0, np.float32), np.array([1e-45, 3e38], np.float32)):
        found = compute_statistics(values)
        assert Statistics.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_from_sums() -> None:
    assert statistics_from_sums(5, 1, 2, -1.0, 3.0, 2.0, 10.0) == Statistics(5, -1.0, 3.0, 1.0, math.sqrt(5), 1, 2)
    assert statistics_from_sums(3, 1, 2, math.inf, -math.inf, 0.0, 0.0) == Statistics(3, None, None, None, None, 1, 2)


@pytest.mark.parametrize(
    ("values", "mean", "rms"), [([1e200, -1e200, 2e200], 2e200 / 3, 2**0.5 * 1e200), ([1.5e308, 1.5e308], 1.5e308, 1.5e308)]
)
def test_squares_and_sums_beyond_float64(values: list[float], mean: float, rms: float) -> None:
    """Arrays of other programs may be float64: no warning, and numbers that JSON can hold."""
    found = compute_statistics(np.array(values))
    assert (found.min, found.max) == (min(values), max(values))
    assert (found.mean, found.rms) == (pytest.approx(mean), pytest.approx(rms))
