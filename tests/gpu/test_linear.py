"""The tests of tests/codegen/test_cuda_linear.py, on the GPU."""

from __future__ import annotations

import pytest

from aprgraph.runtime.cuda.driver import Gpu
from tests.codegen import test_cuda_linear
from tests.gpu.device_kernels import DeviceKernels, cases_of

globals().update(cases_of(test_cuda_linear))


@pytest.fixture(scope="module")
def kernels(gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> DeviceKernels:
    return DeviceKernels(test_cuda_linear.request, gpu, tmp_path_factory.mktemp("linear"))
