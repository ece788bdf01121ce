"""Attention with heads of v of another size, capped scores, and sinks: the same promises as without, on every CPU level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.ops.attention import mask_of
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, Weight, f32, reference, request, run, set_threads, weight

RNG = np.random.default_rng(31)
#: Rows of this pass, and of all passes.
SIZES = [(1, 1), (2, 2), (7, 7), (33, 33), (1, 40), (5, 21)]


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

    def inputs(self, n: int, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            activations(n, self.heads * self.size),
            activations(t, self.kv_heads * self.size),
            activations(t, self.kv_heads * self.pitch),
        )

    def forward(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, cpu: Cpu) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, softmax and the mix, which the fused kernel has to the bit."""
        shape, mixed = (self.heads, len(q), len(k)), (len(q), self.heads * self.value_size)
        scores = run(self.scores, [q, k], shape, cpu)
        weights = run(self.softmax, [scores, *self.sinks], shape, cpu)
        mix = run(self.mix, [weights, v], mixed, cpu)
        assert run(self.fused, [q, k, v, *self.sinks], mixed, cpu).tobytes() == mix.tobytes()
        return scores, weights, mix


def variant(
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
    "v a part of its heads": variant(4, 2, 12, 9, pitch=14),
    "larger v": variant(4, 1, 12, 21),
    "v beyond a piece of registers": variant(2, 1, 16, 288, window=5),
    "v of one": variant(3, 3, 5, 1),
    "cap and window": variant(3, 1, 24, 24, cap=0.5, window=4),
    "chunks": variant(4, 2, 12, 12, window=5, chunked=True),
    "all": variant(6, 3, 16, 10, cap=1.5, sinks="F16", window=6),
    "all, bidirectional": variant(4, 2, 16, 24, cap=1.5, sinks="F32", causal=False),
    "bidirectional, to both sides": variant(4, 2, 16, 10, cap=1.5, sinks="F32", window=7, causal=False, symmetric=True),
    "bidirectional, itself alone": variant(2, 2, 5, 5, window=1, causal=False, symmetric=True),
}


@pytest.mark.parametrize(
    ("name", "cpu"),
    [*((name, RUNNABLE[-1]) for name in VARIANTS), *(("all", cpu) for cpu in RUNNABLE[:-1])],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_each_kernel_agrees_with_the_reference_and_the_fused_one_with_the_three(name: str, cpu: Cpu) -> None:
    what = VARIANTS[name]
    for n, t in SIZES:
        q, k, v = what.inputs(n, t)
        scores, weights, mix = what.forward(q, k, v, cpu)
        assert nmse(scores, reference(what.scores, [q, k])) < 1e-11
        assert nmse(weights, reference(what.softmax, [scores, *what.sinks])) < 1e-12
        assert nmse(mix, reference(what.mix, [weights, v])) < 1e-12
        assert nmse(mix, reference(what.fused, [q, k, v, *what.sinks])) < 1e-11
        seen = mask_of(n, t, what.scores.attrs)
        assert (scores[:, ~seen] == 0).all()
        assert ((weights != 0) == seen).all()


@pytest.mark.contract("DET-POSITION-1", "DET-THREADS-1")
@pytest.mark.parametrize("name", [name for name in VARIANTS if "bidirectional" not in name])
def test_a_position_has_the_same_bits_whatever_comes_with_it(name: str) -> None:
    """Fewer later positions, fewer earlier ones in the same pass, and one thread."""
    what, cpu = VARIANTS[name], RUNNABLE[-1]
    q, k, v = what.inputs(21, 21)
    whole = what.forward(q, k, v, cpu)
    for stop in (1, 9, 16):
        part = what.forward(q[:stop].copy(), k[:stop].copy(), v[:stop].copy(), cpu)
        for got, every in zip(part[:2], whole[:2], strict=True):
            assert got.tobytes() == every[:, :stop, :stop].tobytes()
        assert part[2].tobytes() == whole[2][:stop].tobytes()
    set_threads(1)
    for first in (0, 15, 20):
        part = what.forward(q[first:].copy(), k, v, cpu)
        assert part[2].tobytes() == whole[2][first:].tobytes()
    set_threads(2)


def test_a_cap_of_0_is_none() -> None:
    """The bits are those of a graph that does not name it."""
    what, none = VARIANTS["larger v"], variant(4, 1, 12, 21, cap=0.0)
    q, k, _ = what.inputs(9, 9)
    plain, named = (run(scores, [q, k], (4, 9, 9), RUNNABLE[-1]) for scores in (what.scores, none.scores))
    assert plain.tobytes() == named.tobytes()


def test_sinks_of_extremes() -> None:
    """One above all scores, one far below, one that is NaN: which stays in its head."""
    what = VARIANTS["all, bidirectional"]
    stored = np.array([200.0, -200.0, np.nan, 1.0], dtype=np.float32)
    sinks = Weight(what.sinks[0].type, stored, stored.astype(np.float64))
    scores = (3 * activations(4, 20, 20)).astype(np.float32)
    scores[3, 19] = 300 + activations(20)
    got, expected = run(what.softmax, [scores, sinks], scores.shape, RUNNABLE[-1]), reference(what.softmax, [scores, sinks])
    assert np.isnan(got[2]).all()
    for head in (0, 1, 3):
        np.testing.assert_allclose(got[head], expected[head], rtol=2e-6, atol=1e-37)
    np.testing.assert_allclose(got[1].sum(axis=-1), 1, rtol=1e-6)
    assert got[0].max() < 1e-37


def test_capped_scores_keep_nan_and_reach_the_cap() -> None:
    what = VARIANTS["cap and window"]
    q, k, _ = what.inputs(6, 6)
    q[2, 3] = np.nan
    q[4] = 1e30
    scores = run(what.scores, [q, k], (3, 6, 6), RUNNABLE[-1])
    assert np.isnan(scores[0, 2, :3]).all()
    assert np.isfinite(scores[1:]).all()
    assert (np.abs(scores[:, 4, 1:5]) == 0.5).all()
