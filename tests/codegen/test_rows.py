"""Kernels on rows: norms, RoPE, copies, elementwise ops; and the statistics of taps."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from aprgraph.codegen.cpu import Cpu
from aprgraph.codegen.kernels.cpu.statistics import tensor_statistics
from aprgraph.codegen.library import llvm_target
from aprgraph.graph.calling_convention import STATISTICS_CHUNK, STATISTICS_COLUMNS, STATISTICS_KERNEL
from aprgraph.runtime.trace.statistics import compute_statistics, statistics_from_sums
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, i32, reference, request, run, weight

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(3)
SIZES = (1, 2, 7, 33)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(("columns", "groups"), [(64, 1), (53, 1), (3, 1), (96, 4), (60, 5)])
def test_rms_norm(columns: int, groups: int, cpu: Cpu) -> None:
    w = weight("F32", columns // groups)
    what = request("rms_norm", [f32("n", columns), w.type], eps=1e-5, groups=groups)
    for n in SIZES:
        x = activations(n, columns)
        assert nmse(run(what, [x, w], (n, columns), cpu), reference(what, [x, w])) < 1e-12


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_rms_norm_of_zeros_and_of_huge_values(cpu: Cpu) -> None:
    w = weight("F32", 40)
    what = request("rms_norm", [f32("n", 40), w.type], eps=1e-6, groups=1)
    x = np.stack([np.zeros(40), np.full(40, 1e15), np.full(40, 1e-15)]).astype(np.float32)
    got, expected = run(what, [x, w], (3, 40), cpu), reference(what, [x, w])
    for row in range(3):
        np.testing.assert_allclose(got[row], expected[row], rtol=1e-5)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
@pytest.mark.parametrize(("heads", "size", "dims", "start"), [(3, 16, 16, 0), (2, 10, 6, 4), (1, 64, 64, 7)])
def test_rope(pairing: str, heads: int, size: int, dims: int, start: int, cpu: Cpu) -> None:
    columns = start + heads * size + 3
    what = request("rope", [f32("n", columns), f32("n", dims)], heads=heads, head_size=size, start=start, pairing=pairing)
    for n in SIZES:
        x, angle = activations(n, columns), RNG.uniform(0, 6, (n, dims // 2))
        angles = np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        assert nmse(run(what, [x, angles], (n, heads * size), cpu), reference(what, [x, angles])) < 1e-12


@pytest.mark.parametrize("factors", [False, True])
def test_rope_angles_far_out_keep_their_precision(factors: bool) -> None:
    """In float32 the angle of position 130,000 would already be off by 0.004."""
    operands = [weight("F32", 32)] if factors else []
    if factors:
        operands[0].stored[:] = RNG.uniform(1, 8, 32)
        operands[0].decoded[:] = operands[0].stored
    what = request(
        "rope_angles", [i32("n"), *(w.type for w in operands)], base=5e5, dims=64, scale=0.5, ramp_start=-1.0, ramp_end=0.0, magnitude=1.0
    )
    positions = np.array([0, 1, 4095, 131071], dtype=np.int32)
    got = run(what, [positions, *operands], (4, 64), RUNNABLE[-1])
    np.testing.assert_allclose(got, reference(what, [positions, *operands]), atol=1e-7)


@pytest.mark.parametrize("columns", [1, 16, 53])
def test_copies_are_exact(columns: int) -> None:
    x = activations(5, 60)
    what = request("columns", [f32("n", 60)], start=60 - columns, stop=60)
    assert run(what, [x], (5, columns), RUNNABLE[-1]).tobytes() == np.ascontiguousarray(x[:, 60 - columns :]).tobytes()
    last = request("last_row", [f32("n", 60)])
    assert run(last, [x], (1, 60), RUNNABLE[-1]).tobytes() == x[-1:].tobytes()


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
@pytest.mark.parametrize("count", [1, 7, 8, STATISTICS_CHUNK, STATISTICS_CHUNK + 1, 40_000])
def test_statistics_kernel_agrees_with_numpy(count: int, cpu: Cpu) -> None:
    kernel = tvm.compile(tvm.IRModule({STATISTICS_KERNEL: tensor_statistics(cpu)}), llvm_target(cpu)).mod[STATISTICS_KERNEL]
    for spoiled in (False, True):
        x = (3 + activations(count)).astype(np.float32)
        if spoiled:
            x[RNG.integers(0, count, 5)] = np.nan
            x[RNG.integers(0, count, 3)] = np.inf
            x[0] = -np.inf
        rows = np.full((-(-count // STATISTICS_CHUNK), STATISTICS_COLUMNS), np.nan)
        result = tvm.runtime.tensor(rows)
        kernel(tvm.runtime.tensor(x), result)
        rows = result.numpy()
        nan, inf = (int(column.sum()) for column in rows[:, :2].T)
        got = statistics_from_sums(count, nan, inf, rows[:, 2].min(), rows[:, 3].max(), rows[:, 4].sum(), rows[:, 5].sum())
        expected = compute_statistics(x)
        assert (got.count, got.nan, got.inf, got.min, got.max) == (expected.count, expected.nan, expected.inf, expected.min, expected.max)
        if expected.mean is not None:
            assert got.mean == pytest.approx(expected.mean, rel=1e-12)
            assert got.rms == pytest.approx(expected.rms, rel=1e-12)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_rope_angles_along_a_ramp(cpu: Cpu) -> None:
    attrs = {"base": 1e4, "dims": 20, "scale": 0.25, "ramp_start": 2.0, "ramp_end": 6.5, "magnitude": 1.138}
    what = request("rope_angles", [i32("n")], **attrs)
    positions = np.arange(50, dtype=np.int32)
    np.testing.assert_allclose(run(what, [positions], (50, 20), cpu), reference(what, [positions]), atol=2e-7)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_a_cache_takes_the_last_rows_and_leaves_the_others(cpu: Cpu) -> None:
    what, x = request("cache", [f32("n", 13)]), activations(3, 13)
    assert run(what, [x], (3, 13), cpu).tobytes() == x.tobytes()
    with pytest.raises(AssertionError, match="elements were not written"):
        run(what, [x], (5, 13), cpu)


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
