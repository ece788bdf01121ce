"""CUDA's attention kernels, emulated: against the reference, the fused one bit by bit, and nothing leaks from later positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.ops.attention import attention_mask
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import f32, reference

RNG = np.random.default_rng(5)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Attention:
    """Heads, and the requests of the three kernels and of the one that is all of them."""

    heads: int
    kv_heads: int
    size: int
    window: int
    scores: KernelRequest
    softmax: KernelRequest
    mix: KernelRequest
    fused: KernelRequest

    def inputs(self, n: int, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return tuple(activations(rows, heads * self.size) for rows, heads in ((n, self.heads), (t, self.kv_heads), (t, self.kv_heads)))

    def forward(self, kernels: CudaKernels, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, softmax and the mix, which the fused kernel has to the bit."""
        shape, mixed = (self.heads, len(q), len(k)), (len(q), self.heads * self.size)
        scores = kernels.run(self.scores, [q, k], shape)
        weights = kernels.run(self.softmax, [scores], shape)
        mix = kernels.run(self.mix, [weights, v], mixed)
        assert kernels.run(self.fused, [q, k, v], mixed).tobytes() == mix.tobytes()
        return scores, weights, mix


def _attention(heads: int, kv_heads: int, size: int, window: int = 0, **mask: bool) -> Attention:
    q, kv = f32("n", heads * size), f32("t", kv_heads * size)
    attrs = {"heads": heads, "kv_heads": kv_heads, "scale": size**-0.5, "window": window, **mask}
    scores = request("attn_scores", [q, kv], **attrs)
    softmax = request("attn_softmax", [scores.result], window=window, **mask)
    mix = request("attn_mix", [scores.result, kv], kv_heads=kv_heads, window=window, **mask)
    return Attention(heads, kv_heads, size, window, scores, softmax, mix, request("attention", [q, kv, kv], **attrs))


GROUPED, ONE_KV_HEAD = _attention(4, 2, 16), _attention(3, 1, 64)
WINDOW_1, WINDOW_5, WINDOW_40 = _attention(3, 3, 5, 1), _attention(2, 1, 288, 5), _attention(2, 1, 16, 40)
BIDIRECTIONAL, BIDIRECTIONAL_5 = _attention(4, 2, 16, causal=False), _attention(3, 3, 5, 5, causal=False)
ALL = [GROUPED, ONE_KV_HEAD, WINDOW_1, WINDOW_5, WINDOW_40]
each = pytest.mark.parametrize("what", ALL, ids=[f"{a.heads}-{a.kv_heads}-{a.size}-{a.window}" for a in ALL])


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


#: Queries, and keys: more of them in a later pass than in the first. A tile has 128 keys, a block 8 queries, or 1 if there is 1.
SIZES = [(1, 1), (2, 2), (7, 7), (8, 8), (9, 9), (33, 33), (1, 128), (1, 257), (2, 129), (130, 130), (3, 257), (9, 270)]


@pytest.mark.contract("CUDA-KERNELS-1")
@each
def test_each_kernel_agrees_with_the_reference(what: Attention, kernels: CudaKernels) -> None:
    for n, t in SIZES:
        q, k, v = what.inputs(n, t)
        scores, weights, mix = what.forward(kernels, q, k, v)
        assert nmse(scores, reference(what.scores, [q, k])) < 1e-11  # of a single score, a sum that nearly cancels
        assert nmse(weights, reference(what.softmax, [scores])) < 1e-12
        assert nmse(mix, reference(what.mix, [weights, v])) < 1e-12
        assert nmse(mix, reference(what.fused, [q, k, v])) < 1e-11
        hidden = ~attention_mask(n, t, what.window)
        assert (scores[:, hidden] == 0).all()
        assert (weights[:, hidden] == 0).all()


@pytest.mark.contract("BIDIRECTIONAL-KERNELS-1")
@pytest.mark.parametrize("what", [BIDIRECTIONAL, BIDIRECTIONAL_5], ids=["all", "5"])
def test_without_a_causal_mask_every_kernel_sees_what_comes_later(what: Attention, kernels: CudaKernels) -> None:
    for n in (1, 2, 9, 130):
        q, k, v = what.inputs(n, n)
        scores, weights, mix = what.forward(kernels, q, k, v)
        assert nmse(scores, reference(what.scores, [q, k])) < 1e-11
        assert nmse(weights, reference(what.softmax, [scores])) < 1e-12
        assert nmse(mix, reference(what.mix, [weights, v])) < 1e-12
        assert ((weights != 0) == attention_mask(n, n, what.window, causal=False)).all()


@pytest.mark.contract("DET-POSITION-1")
@each
def test_a_position_has_the_same_bits_whatever_comes_with_it(what: Attention, kernels: CudaKernels) -> None:
    """Fewer later positions; and fewer earlier ones in the same pass, when they lie in the cache."""
    t = 131
    q, k, v = what.inputs(t, t)
    whole = what.forward(kernels, q, k, v)
    for stop in (1, 9, 129):
        part = what.forward(kernels, q[:stop].copy(), k[:stop].copy(), v[:stop].copy())
        for got, every in zip(part[:2], whole[:2], strict=True):
            assert got.tobytes() == every[:, :stop, :stop].tobytes()
        assert part[2].tobytes() == whole[2][:stop].tobytes()
    for first in (121, 130):
        part = what.forward(kernels, q[first:].copy(), k, v)
        for got, every in zip(part[:2], whole[:2], strict=True):
            assert got.tobytes() == every[:, first:].tobytes()
        assert part[2].tobytes() == whole[2][first:].tobytes()


@each
@pytest.mark.parametrize(("n", "t"), [(21, 21), (12, 140)])
def test_what_later_positions_hold_does_not_reach_earlier_ones(n: int, t: int, what: Attention, kernels: CudaKernels) -> None:
    q, k, v = what.inputs(n, t)
    whole = what.forward(kernels, q, k, v)
    for bad_k, bad_v in ((np.nan, np.inf), (1.0, np.nan)):
        k[t - 2], v[t - 2] = bad_k, bad_v
        k[t - 1], v[t - 1] = bad_k, bad_v
        poisoned = what.forward(kernels, q, k, v)
        assert poisoned[2][: n - 2].tobytes() == whole[2][: n - 2].tobytes()
        assert not np.isfinite(poisoned[2][n - 2 :]).any()


@pytest.mark.parametrize("what", [WINDOW_1, WINDOW_5, WINDOW_40], ids=["1", "5", "40"])
def test_what_lies_before_the_window_does_not_reach_a_query(what: Attention, kernels: CudaKernels) -> None:
    for n, t, before in ((50, 50, 0), (44, 140, 96), (44, 140, 90), (1, 140, 139 - what.window)):
        q, k, v = what.inputs(n, t)
        whole = what.forward(kernels, q, k, v)
        k[before], v[before] = np.nan, np.inf
        poisoned = what.forward(kernels, q, k, v)
        sees = attention_mask(n, t, what.window)[:, before]
        assert np.isnan(poisoned[2][sees]).all()
        assert poisoned[2][~sees].tobytes() == whole[2][~sees].tobytes()


@each
def test_nan_in_one_query_stays_there(what: Attention, kernels: CudaKernels) -> None:
    q, k, v = what.inputs(11, 140)
    whole = what.forward(kernels, q, k, v)
    q[3, : what.size] = np.nan  # of its first head
    poisoned = what.forward(kernels, q, k, v)
    assert np.isnan(poisoned[2][3, : what.size]).all()
    poisoned[2][3, : what.size] = whole[2][3, : what.size]
    assert poisoned[2].tobytes() == whole[2].tobytes()


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("bad", [0, 3, 127, 128, 149])
def test_a_nan_score_reaches_the_result(bad: int, n: int, kernels: CudaKernels) -> None:
    """Whichever thread and tile comes by it."""
    q, k, v = GROUPED.inputs(n, 150)
    k[bad] = np.nan
    _, weights, mix = GROUPED.forward(kernels, q, k, v)
    mask = attention_mask(n, 150, 0)
    sees = mask[:, bad]
    assert np.isnan(weights[:, sees][:, mask[sees]]).all()
    assert np.isnan(mix[sees]).all()
    assert np.isfinite(mix[~sees]).all()


def test_softmax_of_extremes(kernels: CudaKernels) -> None:
    scores = np.zeros((4, 140, 140), dtype=np.float32)
    scores[0, 137] = 1e4 * RNG.standard_normal(140)  # overflows without the largest score taken off first
    scores[0, 138] = -1e30
    scores[0, 139, 3] = np.nan
    scores[1, 139] = np.linspace(-200, 0, 140)  # most are 0
    scores[2, 139, 7] = np.inf
    scores[3, 139, :7] = -np.inf
    scores[3][~attention_mask(140, 140, 0)] = np.nan  # never read
    weights = kernels.run(GROUPED.softmax, [scores], scores.shape)
    scores[3][~attention_mask(140, 140, 0)] = 0
    with np.errstate(invalid="ignore"):
        expected = reference(GROUPED.softmax, [scores])
    assert np.isnan(weights[0, 139]).all()
    assert np.isnan(weights[2, 139]).any()
    for weight, other in ((weights[0, :139], expected[0, :139]), (weights[1], expected[1]), (weights[3:], expected[3:])):
        assert nmse(weight, other) < 1e-12
        np.testing.assert_allclose(weight.sum(axis=-1), 1.0, rtol=1e-6)
