"""The RMSNorm kernel, on every CPU level."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, reference, request, run, weight

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(3)
SIZES = (1, 2, 7, 33)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(("columns", "groups"), [(64, 1), (53, 1), (3, 1), (96, 4), (60, 5)])
def test_rms_norm(columns: int, groups: int, cpu: Cpu) -> None:
    for w in (weight("F32", columns // groups), weight("F32", groups, columns // groups)):
        what = request("rms_norm", [f32("n", columns), w.type], eps=1e-5, groups=groups)
        for n in SIZES:
            x = activations(n, columns)
            assert nmse(run(what, [x, w], (n, columns), cpu), reference(what, [x, w])) < 1e-12


@pytest.mark.parametrize(("columns", "groups"), [(53, 1), (60, 5), (96, 4)])
def test_without_weights(columns: int, groups: int) -> None:
    what = request("rms_norm", [f32("n", columns)], eps=1e-5, groups=groups)
    for n in (1, 7):
        x = activations(n, columns)
        assert nmse(run(what, [x], (n, columns), RUNNABLE[-1]), reference(what, [x])) < 1e-12


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_rms_norm_of_zeros_and_of_huge_values(cpu: Cpu) -> None:
    w = weight("F32", 40)
    what = request("rms_norm", [f32("n", 40), w.type], eps=1e-6, groups=1)
    x = np.stack([np.zeros(40), np.full(40, 1e15), np.full(40, 1e-15)]).astype(np.float32)
    got, expected = run(what, [x, w], (3, 40), cpu), reference(what, [x, w])
    for row in range(3):
        np.testing.assert_allclose(got[row], expected[row], rtol=1e-5)


@pytest.mark.parametrize(("fmt", "columns", "groups"), [("F16", 70, 2), ("BF16", 53, 1), ("Q8_0", 96, 1), ("Q4_K", 512, 2)])
def test_weights_of_every_kind_of_format(fmt: str, columns: int, groups: int) -> None:
    w = weight(fmt, columns // groups)
    what = request("rms_norm", [f32("n", columns), w.type], eps=1e-5, groups=groups)
    x = activations(7, columns)
    assert nmse(run(what, [x, w], (7, columns), RUNNABLE[-1]), reference(what, [x, w])) < 1e-12
