"""CUDA's kernel that puts rows into the KV cache, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cuda_emulator import InOut
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.kernels import f32

RNG = np.random.default_rng(3)
SIZES = (1, 2, 7, 8, 9, 33, 257)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CACHE = request("cache", [f32("n", 13)])


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


def test_a_cache_takes_the_last_rows_and_leaves_the_others(kernels: CudaKernels) -> None:
    for n in SIZES:
        for before in (0, 1, 30):
            x, held = activations(n, 13), activations(n + before, 13)
            got = kernels.run(CACHE, [x], InOut(held))
            assert got.tobytes() == held[:before].tobytes() + x.tobytes()
