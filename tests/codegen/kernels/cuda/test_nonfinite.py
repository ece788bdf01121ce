"""NaN and Inf in any operand of CUDA's kernels, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cuda_emulator import InOut, Out
from tests.support.cuda_kernels import CudaKernels
from tests.support.kernels import Weight
from tests.support.planted_kernels import CASES, NAMES, PLANTED, Case, assert_alike

request = [case.what for case in CASES]


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


def _run(kernels: CudaKernels, case: Case) -> np.ndarray:
    arrays = [array for operand in case.operands for array in (operand.packed if isinstance(operand, Weight) else [operand])]
    state = [InOut(np.zeros(case.state, np.float32))] if case.state else []
    # A cache keeps what earlier passes put there; here there were none.
    out = InOut(np.zeros(case.shape, np.float32)) if case.what.op == "cache" else Out(case.shape)
    return kernels.outputs(case.what.symbol, [*arrays, *state, *case.what.numbers.values(), out])[-1]


@pytest.mark.contract("NONFINITE-KERNELS-1")
@pytest.mark.parametrize("case", range(len(CASES)), ids=NAMES)
def test_a_kernel_has_nan_and_inf_where_the_reference_has(case: int, kernels: CudaKernels) -> None:
    for index in CASES[case].plantable:
        for values in PLANTED.values():
            planted = CASES[case].planted(index, values, seed=1)
            assert_alike(_run(kernels, planted), planted)
