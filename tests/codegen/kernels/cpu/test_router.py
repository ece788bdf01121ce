"""Kernels of routers against the float64 reference, on every CPU level that this machine has."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, reference, request, run

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(11)
EXPERTS, USED = 8, 3

each_cpu = pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def choices(n: int) -> np.ndarray:
    return np.stack([RNG.permutation(EXPERTS)[:USED] for _ in range(n)]).astype(np.float32)


@each_cpu
def test_the_largest_scores_are_chosen_and_ties_go_to_the_lower_id(cpu: Cpu) -> None:
    scores = activations(9, EXPERTS)
    scores[1] = 0.5
    scores[2, [1, 6]] = 9.0
    scores[3] = -np.inf
    scores[4, 5] = np.inf
    scores[5, [0, 1]] = [0.0, -0.0]
    scores[6, 3] = np.nan
    for k in (1, USED, EXPERTS):
        what = request("top_k", [f32("n", EXPERTS)], k=k)
        ids = run(what, [scores], (9, k), cpu)
        np.testing.assert_array_equal(ids, reference(what, [scores]))
        assert ids[1].tolist() == list(range(k))
        assert np.isnan(ids[6]).all()


@pytest.mark.parametrize("best", [1, 2])
def test_experts_come_from_the_best_groups(best: int) -> None:
    scores = activations(40, 12)
    scores[1:20] = RNG.integers(0, 3, (19, 12))  # ties, of groups too
    scores[20] = -np.inf
    scores[21, 7] = np.nan
    what = request("top_k", [f32("n", 12)], k=4, groups=4, used_groups=2, best_of_group=best)
    ids = run(what, [scores], (40, 4), RUNNABLE[-1])
    np.testing.assert_array_equal(ids, reference(what, [scores]))
    by_group = np.sort(scores.reshape(40, 4, 3), axis=-1)[..., -best:].sum(axis=-1)
    for row in {*range(40)} - {21}:
        used = {int(expert) // 3 for expert in ids[row]}
        assert min(by_group[row][list(used)]) >= sorted(by_group[row])[2 if len(used) == 2 else 3]
    assert np.isnan(ids[21]).all()


@each_cpu
@pytest.mark.parametrize(("normalise", "more"), [(False, {}), (True, {}), (True, {"gating": "sigmoid"})])
def test_weights_of_the_chosen_experts(normalise: bool, more: dict[str, str], cpu: Cpu) -> None:
    scores, ids = activations(6, 37) * np.float32(3), choices(6)
    scores[4] += 200  # overflows without the largest score taken off first
    ids[5] = np.nan
    what = request("router_weights", [f32("n", 37), f32("n", USED)], normalise=normalise, scale=1.5, **more)
    got, expected = run(what, [scores, ids], (6, USED), cpu), reference(what, [scores, ids])
    assert nmse(got[:5], expected[:5]) < 1e-12
    assert np.isnan(got[5]).all()
    if normalise:
        np.testing.assert_allclose(got[:5].sum(axis=1), 1.5, rtol=1e-6)


@each_cpu
@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.5, 2.5])
def test_shares_among_those_that_are_nearly_as_good(tolerance: float, cpu: Cpu) -> None:
    scores = activations(40, 17)
    scores[1] = 0.5  # all are as good as the best
    scores[2] = -np.abs(scores[2])
    scores[3] = 0.0
    scores[4, :4] = np.float32([1.0, 0.98, 0.97999996, 0.5])  # on both sides of the bound
    scores[5] += 200
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :USED].astype(np.float32)
    ids[6] = np.nan
    what = request("sparse_mixer", [f32("n", 17), f32("n", USED)], tolerance=tolerance)
    got, expected = run(what, [scores, ids], (40, USED), cpu), reference(what, [scores, ids])
    fine = np.delete(np.arange(40), 6)
    assert nmse(got[fine], expected[fine]) < 1e-12
    assert np.isnan(got[6]).all()
    np.testing.assert_allclose(got[1], 1 / np.arange(17, 14, -1), rtol=1e-6)
    assert run(what, [scores[4:5].copy(), ids[4:5].copy()], (1, USED), cpu).tobytes() == got[4].tobytes()


@each_cpu
def test_softmax(cpu: Cpu) -> None:
    x = activations(6, 37) * np.float32(3)
    x[4] += 200  # overflows without the largest taken off first
    x[5, 3] = np.nan
    what = request("softmax", [f32("n", 37)])
    got, expected = run(what, [x], (6, 37), cpu), reference(what, [x])
    assert nmse(got[:5], expected[:5]) < 1e-12
    assert np.isnan(got[5]).all()
    assert run(what, [x[:1].copy()], (1, 37), cpu).tobytes() == got[0].tobytes()
