"""The tests of tests/codegen/kernels/cuda/test_experts.py, on the GPU."""

from __future__ import annotations

from tests.codegen.kernels.cuda import test_experts
from tests.gpu.device_kernels import tests_on_device

globals().update(tests_on_device(test_experts))
