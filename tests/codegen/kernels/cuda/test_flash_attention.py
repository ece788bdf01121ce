"""CUDA's kernel of flash attention as ggml computes it on a CPU, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.flash_attention import ALWAYS, DIVIDED, HEADS, SHAPES, activations, assert_divided, assert_online, assert_tiles, flash

RNG = np.random.default_rng(5)
request = Requests()
FLASHES = {name: flash(name, request) for name in (*SHAPES, ALWAYS)}
others = Requests()
FLASHES |= {name: flash(name, others) for name in DIVIDED if name != ALWAYS}


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize("name", SHAPES)
def test_flash_attention(name: str, kernels: CudaKernels) -> None:
    what, (_, _, values, _) = FLASHES[name], SHAPES[name]
    for n, t in ((1, 1), (1, 9), (7, 7), (3, 40)):
        operands = activations(RNG, n, t, what)
        assert_online(kernels.run(what, operands, (n, HEADS * values)), what, operands)
    operands = activations(RNG, 64, 66, what)
    assert_tiles(kernels.run(what, operands, (64, HEADS * values)), what, operands)


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
def test_passes_and_keys_that_are_divided(kernels: CudaKernels) -> None:
    assert_divided(ALWAYS, FLASHES[ALWAYS], kernels.run)


@pytest.mark.sweep
@pytest.mark.contract("ARITHMETIC-KERNELS-1")
def test_more_passes_and_keys_that_are_divided() -> None:
    kernels = CudaKernels(others)
    for name in set(DIVIDED) - {ALWAYS}:
        assert_divided(name, FLASHES[name], kernels.run)
