"""The tests of tests/codegen/kernels/cuda/test_nonfinite.py, on the GPU."""

from __future__ import annotations

from tests.codegen.kernels.cuda import test_nonfinite
from tests.gpu.device_kernels import tests_on_device

globals().update(tests_on_device(test_nonfinite))
