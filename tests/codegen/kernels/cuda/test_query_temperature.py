"""CUDA's kernel of the temperature of queries, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.kernels.cpu.test_query_temperature import POSITIONS
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.kernels import i32, reference

request = Requests()
TEMPERATURE = request("query_temperature", [i32("n")], strength=0.1, span=16384)


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("CUDA-KERNELS-1")
def test_it_is_that_of_float64_rounded_once(kernels: CudaKernels) -> None:
    expected = reference(TEMPERATURE, [POSITIONS]).astype(np.float32)
    np.testing.assert_allclose(kernels.run(TEMPERATURE, [POSITIONS], (len(POSITIONS), 1)), expected, rtol=6e-8)
