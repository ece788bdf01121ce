"""Attention with heads of v of another size, capped scores, and sinks, on CUDA (emulated): the same promises as without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.ops.attention import attention_mask, mask_of
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import Weight, f32, reference, weight

RNG = np.random.default_rng(31)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Variant:
    """The requests of the three kernels and of the one that is all of them."""

    heads: int
    kv_heads: int
    size: int
    value_size: int
    pitch: int
    scores: KernelRequest
    softmax: KernelRequest
    mix: KernelRequest
    fused: KernelRequest
    sinks: tuple[Weight, ...]

    @property
    def is_causal(self) -> bool:
        return bool(self.scores.attrs.get("causal", True))

    def inputs(self, n: int, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            activations(n, self.heads * self.size),
            activations(t, self.kv_heads * self.size),
            activations(t, self.kv_heads * self.pitch),
        )

    def forward(self, kernels: CudaKernels, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, softmax and the mix, which the fused kernel has to the bit."""
        shape, mixed = (self.heads, len(q), len(k)), (len(q), self.heads * self.value_size)
        scores = kernels.run(self.scores, [q, k], shape)
        weights = kernels.run(self.softmax, [scores, *self.sinks], shape)
        mix = kernels.run(self.mix, [weights, v], mixed)
        assert kernels.run(self.fused, [q, k, v, *self.sinks], mixed).tobytes() == mix.tobytes()
        return scores, weights, mix


def _variant(
    heads: int, kv_heads: int, size: int, value_size: int, *, cap: float | None = None, sinks: str = "", window: int = 0,
    pitch: int = 0, **mask: bool,
) -> Variant:  # fmt: skip
    q, k, v = f32("n", heads * size), f32("t", kv_heads * size), f32("t", kv_heads * (pitch or value_size))
    capped = {} if cap is None else {"cap": cap}
    attrs = {"heads": heads, "kv_heads": kv_heads, "scale": 3 * size**-0.5, "window": window, **mask}
    taken = {"value_size": value_size} if pitch else {}
    weights = (weight(sinks, heads),) if sinks else ()
    types = [sink.type for sink in weights]
    scores = request("attn_scores", [q, k], **attrs, **capped)
    return Variant(
        heads, kv_heads, size, value_size, pitch or value_size, scores,
        request("attn_softmax", [scores.result, *types], window=window, **mask),
        request("attn_mix", [scores.result, v], kv_heads=kv_heads, window=window, **taken, **mask),
        request("attention", [q, k, v, *types], **attrs, **capped, **taken),
        weights,
    )  # fmt: skip


VARIANTS = {
    "v a part of its heads": _variant(4, 2, 12, 9, pitch=14),
    "larger v": _variant(2, 1, 12, 150),
    "v of one, sinks of 16 bits": _variant(3, 3, 5, 1, sinks="BF16"),
    "cap and window": _variant(2, 1, 24, 24, cap=0.5, window=4),
    "chunks": _variant(2, 1, 12, 12, window=5, chunked=True),
    "chunks of more than a tile": _variant(2, 1, 8, 8, window=135, chunked=True),
    "all": _variant(4, 2, 16, 10, cap=1.5, sinks="F32", window=40),
    "all, bidirectional": _variant(2, 2, 16, 24, cap=1.5, sinks="F16", causal=False),
    "bidirectional, to both sides": _variant(2, 1, 16, 10, cap=1.5, sinks="F32", window=41, causal=False, symmetric=True),
}
each = pytest.mark.parametrize("what", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("CUDA-KERNELS-1")
@each
def test_each_kernel_agrees_with_the_reference_and_the_fused_one_with_the_three(what: Variant, kernels: CudaKernels) -> None:
    """A tile has 128 keys, a block 8 queries, or 1 if there is 1."""
    for n, t in ((1, 1), (2, 2), (9, 9), (1, 129), (10, 140)):
        q, k, v = what.inputs(n, t)
        scores, weights, mix = what.forward(kernels, q, k, v)
        assert nmse(scores, reference(what.scores, [q, k])) < 1e-11
        assert nmse(weights, reference(what.softmax, [scores, *what.sinks])) < 1e-12
        assert nmse(mix, reference(what.mix, [weights, v])) < 1e-12
        assert nmse(mix, reference(what.fused, [q, k, v, *what.sinks])) < 1e-11
        seen = mask_of(n, t, what.scores.attrs)
        assert (scores[:, ~seen] == 0).all()
        assert ((weights != 0) == seen).all()


@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.parametrize(
    "what", [what for what in VARIANTS.values() if what.is_causal], ids=[n for n, v in VARIANTS.items() if v.is_causal]
)
def test_a_position_has_the_same_bits_whatever_comes_with_it(what: Variant, kernels: CudaKernels) -> None:
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
        assert part[2].tobytes() == whole[2][first:].tobytes()


@each
def test_nan_in_one_query_stays_there(what: Variant, kernels: CudaKernels) -> None:
    q, k, v = what.inputs(11, 140)
    whole = what.forward(kernels, q, k, v)
    q[3, : what.size] = np.nan  # of its first head
    poisoned = what.forward(kernels, q, k, v)
    assert np.isnan(poisoned[2][3, : what.value_size]).all()
    poisoned[2][3, : what.value_size] = whole[2][3, : what.value_size]
    assert poisoned[2].tobytes() == whole[2].tobytes()


def test_sinks_of_extremes(kernels: CudaKernels) -> None:
    """One above all scores, one far below, one that is NaN: which stays in its head."""
    what = VARIANTS["all"]
    stored = np.array([200.0, -200.0, np.nan, 1.0], dtype=np.float32)
    sinks = Weight(what.sinks[0].type, stored, stored.astype(np.float64))
    scores = (3 * activations(4, 20, 20)).astype(np.float32)
    scores[3, 19] = 300 + activations(20)
    got, expected = kernels.run(what.softmax, [scores, sinks], scores.shape), reference(what.softmax, [scores, sinks])
    assert np.isnan(got[2][attention_mask(20, 20, 40)]).all()
    for head in (0, 1, 3):
        np.testing.assert_allclose(got[head], expected[head], rtol=2e-6, atol=1e-37)
