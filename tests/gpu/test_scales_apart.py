"""The tests of tests/codegen/kernels/cuda/test_scales_apart.py, on the GPU."""

from __future__ import annotations

from tests.codegen.kernels.cuda import test_scales_apart
from tests.gpu.device_kernels import tests_on_device

globals().update(tests_on_device(test_scales_apart))
