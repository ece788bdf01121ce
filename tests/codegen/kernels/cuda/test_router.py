"""CUDA's kernels of routers, emulated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import f32, reference

RNG = np.random.default_rng(11)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def choices(n: int, k: int, experts: int) -> np.ndarray:
    return np.stack([RNG.permutation(experts)[:k] for _ in range(n)]).astype(np.float32)


TOP_K = {(experts, k): request("top_k", [f32("n", experts)], k=k) for experts, k in ((8, 1), (8, 2), (8, 8), (33, 2), (130, 8))}
GROUPS = {best: request("top_k", [f32("n", 80)], k=4, groups=40, used_groups=3, best_of_group=best) for best in (1, 2)}
SCALES = {
    (experts, k, normalise, scale, *gating): request(
        "router_weights",
        [f32("n", experts), f32("n", k)],
        normalise=normalise,
        scale=scale,
        **dict.fromkeys(["gating"][: len(gating)], "sigmoid"),
    )
    for experts, k, normalise, scale, *gating in (
        (37, 3, False, 1.0),
        (37, 3, True, 1.5),
        (8, 1, True, 1.0),
        (130, 8, False, 2.5),
        (64, 40, True, 1.0),
        (130, 8, True, 2.5, "sigmoid"),
    )
}

MIXERS = {
    (experts, k): request("sparse_mixer", [f32("n", experts), f32("n", k)], tolerance=0.5) for experts, k in ((16, 2), (40, 3), (64, 34))
}
SOFTMAX = {columns: request("softmax", [f32("n", columns)]) for columns in (8, 130)}


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize(("experts", "k"), TOP_K)
def test_the_largest_scores_are_chosen_and_ties_go_to_the_lower_id(experts: int, k: int, kernels: CudaKernels) -> None:
    scores = activations(33, experts)
    scores[1] = 0.5
    scores[2, [1, 6]] = 9.0
    scores[2, experts - 1] = 9.0
    scores[3] = -np.inf
    scores[4, 5] = np.inf
    scores[5, [0, 1]] = [0.0, -0.0]
    scores[6, 3] = np.nan
    scores[7] = np.inf
    scores[8, experts - 1] = np.nan
    scores[9:20] = RNG.integers(0, 3, (11, experts))
    what = TOP_K[experts, k]
    ids = kernels.run(what, [scores], (33, k))
    np.testing.assert_array_equal(ids, reference(what, [scores]))
    for row in (1, 3, 7):
        assert ids[row].tolist() == list(range(k))
    assert np.isnan(ids[[6, 8]]).all()
    assert not np.isnan(np.delete(ids, [6, 8], axis=0)).any()
    for row in (0, 2, 6):
        assert kernels.run(what, [scores[row : row + 1].copy()], (1, k)).tobytes() == ids[row].tobytes()


@pytest.mark.parametrize("best", GROUPS)
def test_experts_come_from_the_best_groups(best: int, kernels: CudaKernels) -> None:
    scores = activations(33, 80)
    scores[1:20] = RNG.integers(0, 3, (19, 80))
    scores[21, 7] = np.nan
    np.testing.assert_array_equal(kernels.run(GROUPS[best], [scores], (33, 4)), reference(GROUPS[best], [scores]))


@pytest.mark.parametrize("case", SCALES)
def test_weights_of_the_chosen_experts(case: tuple[Any, ...], kernels: CudaKernels) -> None:
    what, (experts, k, normalise, scale, *_) = SCALES[case], case
    scores, ids = activations(33, experts) * np.float32(3), choices(33, k, experts)
    scores[4] += 200  # overflows without the largest score taken off first
    ids[5] = np.nan
    scores[6] = np.nan
    ids[6] = np.nan
    got, expected = kernels.run(what, [scores, ids], (33, k)), reference(what, [scores, ids])
    fine = np.delete(np.arange(33), [5, 6])
    assert nmse(got[fine], expected[fine]) < 1e-12
    assert np.isnan(got[[5, 6]]).all()
    if normalise:
        np.testing.assert_allclose(got[fine].sum(axis=1), scale, rtol=1e-6)
    for row in (0, 4):
        assert kernels.run(what, [scores[row : row + 1].copy(), ids[row : row + 1].copy()], (1, k)).tobytes() == got[row].tobytes()


@pytest.mark.parametrize(("experts", "k"), MIXERS)
def test_shares_among_those_that_are_nearly_as_good(experts: int, k: int, kernels: CudaKernels) -> None:
    scores = activations(33, experts)
    scores[1] = 0.5
    scores[2] = -np.abs(scores[2])
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.float32)
    ids[5] = np.nan
    what = MIXERS[experts, k]
    got, expected = kernels.run(what, [scores, ids], (33, k)), reference(what, [scores, ids])
    fine = np.delete(np.arange(33), 5)
    assert nmse(got[fine], expected[fine]) < 1e-12
    assert np.isnan(got[5]).all()
    assert kernels.run(what, [scores[2:3].copy(), ids[2:3].copy()], (1, k)).tobytes() == got[2].tobytes()


@pytest.mark.parametrize("columns", SOFTMAX)
def test_softmax(columns: int, kernels: CudaKernels) -> None:
    x = activations(6, columns) * np.float32(3)
    x[4] += 200
    x[5, 3] = np.nan
    what = SOFTMAX[columns]
    got, expected = kernels.run(what, [x], (6, columns)), reference(what, [x])
    assert nmse(got[:5], expected[:5]) < 1e-12
    assert np.isnan(got[5]).all()
    assert kernels.run(what, [x[:1].copy()], (1, columns)).tobytes() == got[0].tobytes()
