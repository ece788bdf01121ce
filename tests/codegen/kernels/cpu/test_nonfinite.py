"""NaN and Inf in any operand: kernels hold them where the reference does, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.kernels import RUNNABLE, Weight, run
from tests.support.planted_kernels import CASES, NAMES, PLANTED, Case, assert_alike, covered

F32 = np.ndarray


def _state(shape: tuple[int, ...]) -> F32:
    """Zeros at a multiple of 64 bytes, as sessions allocate what kernels keep."""
    size = 4 * int(np.prod(shape))
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(np.float32).reshape(shape)


def _run(case: Case, cpu: Cpu) -> F32:
    operands = list(case.operands)
    if case.state:
        held = _state(case.state)
        operands.append(Weight(case.what.result, held, held))
    return run(case.what, operands, case.shape, cpu)


def test_every_op_with_a_kernel_is_covered() -> None:
    assert covered()


@pytest.mark.contract("NONFINITE-KERNELS-1")
@pytest.mark.each_choice(of=lambda case, cpu: {("case", case), *([("cpu", cpu.name)] if case < 4 else [])})
@pytest.mark.parametrize("cpu", RUNNABLE[::-1], ids=lambda cpu: cpu.name)
@pytest.mark.parametrize("case", range(len(CASES)), ids=NAMES)
def test_a_kernel_has_nan_and_inf_where_the_reference_has(case: int, cpu: Cpu) -> None:
    for index in CASES[case].plantable:
        for values in PLANTED.values():
            planted = CASES[case].planted(index, values, seed=1)
            assert_alike(_run(planted, cpu), planted)
