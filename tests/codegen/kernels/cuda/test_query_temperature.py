"""CUDA's kernel of the temperature of queries, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from tests.codegen.kernels.cpu.test_query_temperature import POSITIONS
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.kernels import i32, reference

request = Requests()
TEMPERATURES = {offset: request("query_temperature", [i32("n")], strength=0.1, span=16384, offset=offset) for offset in (0, 1)}


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("what", TEMPERATURES.values(), ids=TEMPERATURES)
def test_it_is_that_of_float64_rounded_once(what: KernelRequest, kernels: CudaKernels) -> None:
    expected = reference(what, [POSITIONS]).astype(np.float32)
    np.testing.assert_allclose(kernels.run(what, [POSITIONS], (len(POSITIONS), 1)), expected, rtol=6e-8)
