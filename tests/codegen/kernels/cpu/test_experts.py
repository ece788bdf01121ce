"""Kernels of mixtures of experts against the float64 reference, on every CPU level that this machine has."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, reference, request, run, set_threads, weight

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(11)
EXPERTS, USED = 8, 3

each_cpu = pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def choices(n: int) -> np.ndarray:
    return np.stack([RNG.permutation(EXPERTS)[:USED] for _ in range(n)]).astype(np.float32)


@pytest.mark.each_choice(least=2)
@each_cpu
@pytest.mark.parametrize("fmt", ["F32", "F16", "Q8_0", "Q4_1", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("each", [False, True], ids=["one row a position", "one row a choice"])
def test_products_with_the_chosen_experts(fmt: str, each: bool, cpu: Cpu) -> None:
    columns = 256 if fmt.endswith("K") else 64
    w = weight(fmt, EXPERTS, 29, columns)
    what = request("expert_linear", [f32("n", USED, columns) if each else f32("n", columns), f32("n", USED), w.type])
    for n in (1, 2, 7, 33):
        x, ids = activations(n, USED, columns) if each else activations(n, columns), choices(n)
        assert nmse(run(what, [x, ids, w], (n, USED, 29), cpu), reference(what, [x, ids, w])) < 1e-12


@pytest.mark.contract("DET-POSITION-1", "DET-THREADS-1")
@each_cpu
def test_a_position_has_the_same_bits_whoever_else_chose_its_experts(cpu: Cpu) -> None:
    w = weight("Q4_0", EXPERTS, 20, 96)
    what = request("expert_linear", [f32("n", 96), f32("n", USED), w.type])
    x, ids = activations(19, 96), choices(19)
    whole = run(what, [x, ids, w], (19, USED, 20), cpu)
    for position in (0, 5, 18):
        alone = run(what, [x[position : position + 1], ids[position : position + 1], w], (1, USED, 20), cpu)
        assert alone.tobytes() == whole[position].tobytes()
    set_threads(1)
    assert run(what, [x, ids, w], (19, USED, 20), cpu).tobytes() == whole.tobytes()
    set_threads(2)


@each_cpu
def test_all_positions_with_one_expert_and_one_position_with_all(cpu: Cpu) -> None:
    w = weight("F32", EXPERTS, 7, 24)
    for n, k in ((6, 1), (1, EXPERTS)):
        what = request("expert_linear", [f32("n", 24), f32("n", k), w.type])
        x, ids = activations(n, 24), np.tile(np.arange(k, dtype=np.float32)[::-1], (n, 1))
        assert nmse(run(what, [x, ids.copy(), w], (n, k, 7), cpu), reference(what, [x, ids, w])) < 1e-12


@pytest.mark.contract("DET-POSITION-1")
@each_cpu
def test_many_positions_with_one_expert_of_long_rows(cpu: Cpu) -> None:
    """More than go together, whose sums are kept from part to part of the rows."""
    w, n = weight("Q4_1", EXPERTS, 20, 1536), 140
    what = request("expert_linear", [f32("n", 1536), f32("n", 2), w.type])
    x, ids = activations(n, 1536), np.tile(np.array([5, 2], np.float32), (n, 1))
    whole = run(what, [x, ids, w], (n, 2, 20), cpu)
    assert nmse(whole, reference(what, [x, ids, w])) < 1e-12
    for position in (0, 127, 128, 139):
        alone = run(what, [x[position : position + 1], ids[position : position + 1], w], (1, 2, 20), cpu)
        assert alone.tobytes() == whole[position].tobytes()


@each_cpu
def test_a_position_that_could_choose_nothing_is_nan_and_the_others_are_not(cpu: Cpu) -> None:
    w = weight("F32", EXPERTS, 7, 24)
    what = request("expert_linear", [f32("n", 24), f32("n", USED), w.type])
    x, ids = activations(4, 24), choices(4)
    before = run(what, [x, ids, w], (4, USED, 7), cpu)
    ids[2] = np.nan
    after = run(what, [x, ids, w], (4, USED, 7), cpu)
    assert np.isnan(after[2]).all()
    assert np.delete(after, 2, axis=0).tobytes() == np.delete(before, 2, axis=0).tobytes()


@each_cpu
def test_the_weighted_sum(cpu: Cpu) -> None:
    what = request("expert_sum", [f32("n", USED, 21), f32("n", USED)])
    x, weights = activations(5, USED, 21), activations(5, USED)
    assert nmse(run(what, [x, weights], (5, 21), cpu), reference(what, [x, weights])) < 1e-12


@each_cpu
@pytest.mark.parametrize("columns", [1, 21, 64])
def test_weights_in_the_inputs(columns: int, cpu: Cpu) -> None:
    what, plain = request("expert_inputs", [f32("n", columns), f32("n", USED)]), request("expert_sum", [f32("n", USED, columns)])
    for n in (1, 5):
        x, weights = activations(n, columns), activations(n, USED)
        given = run(what, [x, weights], (n, USED, columns), cpu)
        assert nmse(given, reference(what, [x, weights])) < 1e-13
        assert nmse(run(plain, [given], (n, columns), cpu), reference(plain, [given])) < 1e-12
    weights[3, 1] = np.nan
    assert np.argwhere(np.isnan(run(what, [x, weights], (n, USED, columns), cpu)).all(axis=-1)).tolist() == [[3, 1]]


@each_cpu
def test_factors_of_the_chosen_experts(cpu: Cpu) -> None:
    factors = weight("BF16", EXPERTS)
    what = request("expert_scale", [f32("n", USED), f32("n", USED), factors.type])
    x, ids = activations(9, USED), choices(9)
    assert nmse(run(what, [x, ids, factors], (9, USED), cpu), reference(what, [x, ids, factors])) < 1e-13
    ids[4, 1] = np.nan
    assert np.argwhere(np.isnan(run(what, [x, ids, factors], (9, USED), cpu))).tolist() == [[4, 1]]


@each_cpu
@pytest.mark.parametrize("fmt", ["F32", "BF16", "Q8_0"])
def test_biases_of_the_chosen_experts(fmt: str, cpu: Cpu) -> None:
    columns = 32 if fmt == "Q8_0" else 21
    b = weight(fmt, EXPERTS, columns)
    what = request("expert_bias_add", [f32("n", USED, columns), f32("n", USED), b.type])
    for n in (1, 2, 7, 33):
        x, ids = activations(n, USED, columns), choices(n)
        got = run(what, [x, ids, b], (n, USED, columns), cpu)
        assert nmse(got, reference(what, [x, ids, b])) < 1e-13
        assert run(what, [x[-1:].copy(), ids[-1:].copy(), b], (1, USED, columns), cpu).tobytes() == got[-1:].tobytes()
    ids[4, 1] = np.nan
    assert np.argwhere(np.isnan(run(what, [x, ids, b], (n, USED, columns), cpu)).any(axis=-1)).tolist() == [[4, 1]]
