"""Kernels of elementwise ops, on every CPU level."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, reference, request, run

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(3)

#: Formulas with attributes, and what they are at.
FORMULAS = {
    "scale": {"factor": 0.22},
    "soft_cap": {"cap": 3.0},
    "clamp": {"bound": 0.7},
    "clamped_swiglu": {"limit": 2.0, "alpha": 1.702},
    "relu_squared": {},
    "tanh": {},
    "gelu_erf": {},
    "xielu": {"alpha_p": 0.8, "alpha_n": 0.9, "beta": 0.5, "eps": -1e-6},
}


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("op", ["add", "mul"])
def test_elementwise_is_correctly_rounded(op: str, cpu: Cpu) -> None:
    what = request(op, [f32("n", 37), f32("n", 37)])
    a, b = activations(9, 37), activations(9, 37)
    expected = a + b if op == "add" else a * b
    assert run(what, [a, b], (9, 37), cpu).tobytes() == expected.tobytes()


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_silu_over_the_whole_range(cpu: Cpu) -> None:
    """Our own exponential: a dense sweep, and what happens at its ends."""
    what = request("silu", [f32("n", 1000)])
    x = np.linspace(-120, 120, 60_000, dtype=np.float32).reshape(60, 1000)
    got, expected = run(what, [x], (60, 1000), cpu), reference(what, [x])
    normal = np.abs(expected) > 1e-30
    assert np.abs(got[normal] / expected[normal] - 1).max() < 4e-7
    np.testing.assert_allclose(got, expected, rtol=4e-7, atol=1e-36)
    ends = np.array([[np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38, -3e38] + [1.0] * 993], dtype=np.float32)
    with np.errstate(invalid="ignore"):
        got = run(what, [ends], (1, 1000), cpu)[0]
    assert got[0] == np.inf
    assert np.isnan(got[2])
    assert (got[3:5] == 0).all()
    assert got[5] == np.float32(3e38)
    assert got[6] == 0


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("op", ["silu", "gelu", "sigmoid"])
def test_activations_of_experts_and_of_extremes(op: str, cpu: Cpu) -> None:
    what = request(op, [f32("n", 3, 21)])
    x = activations(4, 3, 21) * np.float32(4)
    assert nmse(run(what, [x], (4, 3, 21), cpu), reference(what, [x])) < 1e-12
    x[0, 0, :6] = [-1e30, 1e30, -50.0, 50.0, np.nan, 0.0]
    got, expected = run(what, [x], (4, 3, 21), cpu), reference(what, [x]).astype(np.float32)
    assert np.isnan(got[0, 0, 4])
    np.testing.assert_allclose(np.delete(got[0, 0], 4), np.delete(expected[0, 0], 4), rtol=1e-5, atol=1e-18)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_scaled_rows(cpu: Cpu) -> None:
    what, x, factors = request("scale_rows", [f32("n", 13), f32("n", 1)]), activations(5, 13), activations(5, 1)
    assert run(what, [x, factors], (5, 13), cpu).tobytes() == (x * factors).tobytes()


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("op", FORMULAS)
def test_formulas_with_attributes(op: str, cpu: Cpu) -> None:
    count = 2 if op == "clamped_swiglu" else 1
    what = request(op, [f32("n", 3, 21)] * count, **FORMULAS[op])
    operands = [activations(5, 3, 21) * np.float32(4) for _ in range(count)]
    operands[-1][2, 1, 7] = np.nan
    operands[0][0, 0, :2] = [np.inf, -np.inf]
    got, expected = run(what, operands, (5, 3, 21), cpu), reference(what, operands)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert np.isnan(got[2, 1, 7])


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_gelu_by_a_table_is_that_table(cpu: Cpu) -> None:
    """Every float16 between the bounds, what lies between two of them, and what is beyond."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = RNG.uniform(-11, 11, 65536).astype(np.float32)
    x = np.concatenate([halves, between]).reshape(128, 1024)
    what = request("gelu_half", [f32("n", 1024)])
    got = run(what, [x], x.shape, cpu)
    with np.errstate(all="ignore"):
        wanted = reference(what, [x]).astype(np.float32)
    np.testing.assert_array_equal(got, wanted)
    of_experts = request("gelu_half", [f32("n", 2, 19)])
    rows = x[64:, 500:538].reshape(64, 2, 19).copy()
    np.testing.assert_array_equal(run(of_experts, [rows], rows.shape, cpu), reference(of_experts, [rows]).astype(np.float32))
