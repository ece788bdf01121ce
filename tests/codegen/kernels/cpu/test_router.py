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
