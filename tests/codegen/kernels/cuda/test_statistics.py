"""CUDA's statistics kernel, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.graph.calling_convention import STATISTICS_CHUNK, STATISTICS_COLUMNS, STATISTICS_KERNEL
from aprgraph.runtime.trace.statistics import compute_statistics, statistics_from_sums
from tests.support.cuda_emulator import Out
from tests.support.cuda_kernels import CudaKernels, Requests

RNG = np.random.default_rng(3)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.parametrize("count", [1, 7, 8, 255, 257, STATISTICS_CHUNK, STATISTICS_CHUNK + 1, 40_000])
def test_statistics_kernel_agrees_with_numpy(count: int, kernels: CudaKernels) -> None:
    for spoiled in (False, True):
        x = (3 + activations(count)).astype(np.float32)
        if spoiled:
            x[RNG.integers(0, count, 5)] = np.nan
            x[RNG.integers(0, count, 3)] = np.inf
            x[0] = -np.inf
        rows = kernels.call(STATISTICS_KERNEL, [x, Out((-(-count // STATISTICS_CHUNK), STATISTICS_COLUMNS), np.float64)])
        nan, inf = (int(column.sum()) for column in rows[:, :2].T)
        got = statistics_from_sums(count, nan, inf, rows[:, 2].min(), rows[:, 3].max(), rows[:, 4].sum(), rows[:, 5].sum())
        expected = compute_statistics(x)
        assert (got.count, got.nan, got.inf, got.min, got.max) == (expected.count, expected.nan, expected.inf, expected.min, expected.max)
        if expected.mean is not None:
            assert got.mean == pytest.approx(expected.mean, rel=1e-12)
            assert got.rms == pytest.approx(expected.rms, rel=1e-12)
