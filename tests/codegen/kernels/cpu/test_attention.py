"""The attention kernels: against the reference, causal to the bit, and safe from what later positions hold."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.graph.ops.attention import attention_mask
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, reference, request, run, set_threads

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(5)
#: Query heads, KV heads, head size: grouped, one KV head, no sharing, an odd size, one larger than a register piece.
HEADS = [(6, 2, 16), (4, 1, 24), (3, 3, 5), (9, 3, 64), (2, 1, 288)]


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def requests(heads: int, kv_heads: int, size: int, window: int = 0, **mask: bool) -> tuple:
    q, kv = f32("n", heads * size), f32("t", kv_heads * size)
    scores = request("attn_scores", [q, kv], heads=heads, kv_heads=kv_heads, scale=size**-0.5, window=window, **mask)
    softmax = request("attn_softmax", [scores.result], window=window, **mask)
    mix = request("attn_mix", [scores.result, kv], kv_heads=kv_heads, window=window, **mask)
    return scores, softmax, mix


@pytest.mark.each_choice
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(
    ("shape", "window"), [*((shape, 0) for shape in HEADS), *((HEADS[0], window) for window in (1, 5, 40)), (HEADS[4], 5)]
)
def test_each_kernel_agrees_with_the_reference(shape: tuple[int, int, int], window: int, cpu: Cpu) -> None:
    heads, kv_heads, size = shape
    scores, softmax, mix = requests(*shape, window)
    for n in (1, 2, 7, 18, 33):
        q, k, v = activations(n, heads * size), activations(n, kv_heads * size), activations(n, kv_heads * size)
        s = run(scores, [q, k], (heads, n, n), cpu)
        assert nmse(s, reference(scores, [q, k])) < 1e-11  # of a single score, a sum that nearly cancels
        w = run(softmax, [s], (heads, n, n), cpu)
        assert nmse(w, reference(softmax, [s])) < 1e-12
        assert nmse(run(mix, [w, v], (n, heads * size), cpu), reference(mix, [w, v])) < 1e-12
        hidden = ~attention_mask(n, n, window)
        assert (s[:, hidden] == 0).all()
        assert (w[:, hidden] == 0).all()


@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_later_positions_change_no_bit_of_earlier_ones(cpu: Cpu) -> None:
    heads, kv_heads, size = 6, 2, 16
    scores, softmax, mix = requests(heads, kv_heads, size)
    q, k, v = activations(21, heads * size), activations(21, kv_heads * size), activations(21, kv_heads * size)

    def forward(n: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s = run(scores, [q[:n].copy(), k[:n].copy()], (heads, n, n), cpu)
        w = run(softmax, [s], (heads, n, n), cpu)
        return s, w, run(mix, [w, v[:n].copy()], (n, heads * size), cpu)

    whole = forward(21, k, v)
    for n in (1, 2, 5, 16, 17):
        part = forward(n, k, v)
        assert part[0].tobytes() == whole[0][:, :n, :n].tobytes()
        assert part[1].tobytes() == whole[1][:, :n, :n].tobytes()
        assert part[2].tobytes() == whole[2][:n].tobytes()
    poisoned_k, poisoned_v = k.copy(), v.copy()
    poisoned_k[20], poisoned_v[20] = np.nan, np.inf
    poisoned = forward(21, poisoned_k, poisoned_v)
    assert poisoned[2][:20].tobytes() == whole[2][:20].tobytes()
    assert np.isnan(poisoned[2][20]).all()


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("window", [0, 4])
def test_a_query_after_others_has_the_bits_of_a_prefill(window: int, cpu: Cpu) -> None:
    """n < t: the last rows of a prefill are what a later step computes."""
    heads, kv_heads, size = 4, 2, 8
    scores, softmax, mix = requests(heads, kv_heads, size, window)
    fused = request("attention", [scores.operands[0], *[f32("t", kv_heads * size)] * 2], **scores.attrs)
    q, k, v = activations(9, heads * size), activations(9, kv_heads * size), activations(9, kv_heads * size)

    def forward(q: np.ndarray) -> tuple[np.ndarray, ...]:
        n = len(q)
        s = run(scores, [q, k], (heads, n, 9), cpu)
        w = run(softmax, [s], (heads, n, 9), cpu)
        return s, w, run(mix, [w, v], (n, heads * size), cpu), run(fused, [q, k, v], (n, heads * size), cpu)

    whole, step = forward(q), forward(q[6:].copy())
    for part, every in zip(step[:2], whole[:2], strict=True):
        assert part.tobytes() == every[:, 6:].tobytes()
    for part in step[2:]:
        assert part.tobytes() == whole[2][6:].tobytes()
    assert nmse(step[0], reference(scores, [q[6:], k])) < 1e-12


@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.each_choice
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(
    ("window", "mask"), [(0, {}), (70, {}), (70, {"chunked": True}), (0, {"causal": False}), (70, {"symmetric": True})]
)
def test_among_many_keys_positions_have_the_bits_that_they_have_alone(window: int, mask: dict[str, bool], cpu: Cpu) -> None:
    """Positions are taken some at a time, and keys too: whichever of them go along changes nothing."""
    heads, kv_heads, size, t = 6, 2, 8, 150
    if mask.get("symmetric"):
        mask = {**mask, "causal": False}
    scores, _, mix = requests(heads, kv_heads, size, window, **mask)
    fused = request("attention", [scores.operands[0], *[f32("t", kv_heads * size)] * 2], **scores.attrs)
    q, k, v = activations(t, heads * size), activations(t, kv_heads * size), activations(t, kv_heads * size)
    weights = activations(heads, t, t)
    whole = run(scores, [q, k], (heads, t, t), cpu), run(mix, [weights, v], (t, heads * size), cpu), run(fused, [q, k, v], q.shape, cpu)
    assert nmse(whole[2], reference(fused, [q, k, v])) < 1e-12
    for first in (149, 142, 141, 80):  # these and what follows, before which there are the other keys
        n = t - first
        part = q[first:].copy()
        assert run(scores, [part, k], (heads, n, t), cpu).tobytes() == whole[0][:, first:].tobytes()
        assert run(mix, [weights[:, first:].copy(), v], part.shape, cpu).tobytes() == whole[1][first:].tobytes()
        assert run(fused, [part, k, v], part.shape, cpu).tobytes() == whole[2][first:].tobytes()


@pytest.mark.contract("DET-THREADS-1")
def test_threads_do_not_change_a_bit() -> None:
    scores, softmax, mix = requests(9, 3, 64)
    q, k, v = activations(13, 576), activations(13, 192), activations(13, 192)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        s = run(scores, [q, k], (9, 13, 13), RUNNABLE[-1])
        w = run(softmax, [s], (9, 13, 13), RUNNABLE[-1])
        results.append(s.tobytes() + w.tobytes() + run(mix, [w, v], (13, 576), RUNNABLE[-1]).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_softmax_of_extremes(cpu: Cpu) -> None:
    softmax = request("attn_softmax", [f32(1, "n", "t")], window=0)
    scores = np.zeros((1, 20, 20), dtype=np.float32)
    scores[0, 17] = 1e4 * RNG.standard_normal(20)  # overflows without the largest score taken off first
    scores[0, 18] = -1e30
    scores[0, 19, 3] = np.nan
    weights = run(softmax, [scores], (1, 20, 20), cpu)
    assert nmse(weights[0, :19], reference(softmax, [scores])[0, :19]) < 1e-12
    assert np.isnan(weights[0, 19]).all()
    np.testing.assert_allclose(weights[0, :19].sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.each_choice
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(("shape", "window"), [*((shape, 0) for shape in HEADS), (HEADS[0], 5), (HEADS[4], 5)])
def test_the_fused_kernel_has_the_bits_of_the_three(shape: tuple[int, int, int], window: int, cpu: Cpu) -> None:
    heads, kv_heads, size = shape
    scores, softmax, mix = requests(*shape, window)
    what = request("attention", [scores.operands[0], *[f32("t", kv_heads * size)] * 2], **scores.attrs)
    for n in (1, 2, 17, 33):
        q, k, v = activations(n, heads * size), activations(n, kv_heads * size), activations(n, kv_heads * size)
        w = run(softmax, [run(scores, [q, k], (heads, n, n), cpu)], (heads, n, n), cpu)
        three = run(mix, [w, v], (n, heads * size), cpu)
        fused = run(what, [q, k, v], (n, heads * size), cpu)
        assert fused.tobytes() == three.tobytes()
        assert nmse(fused, reference(what, [q, k, v])) < 1e-12


@pytest.mark.contract("BIDIRECTIONAL-KERNELS-1")
@pytest.mark.parametrize("window", [0, 4])
def test_without_a_causal_mask_every_kernel_sees_what_comes_later(window: int) -> None:
    cpu, (heads, kv_heads, size) = RUNNABLE[-1], HEADS[0]
    scores, softmax, mix = requests(heads, kv_heads, size, window, causal=False)
    fused = request("attention", [scores.operands[0], *[f32("t", kv_heads * size)] * 2], **scores.attrs)
    for n in (1, 2, 19):
        q, k, v = activations(n, heads * size), activations(n, kv_heads * size), activations(n, kv_heads * size)
        s = run(scores, [q, k], (heads, n, n), cpu)
        w = run(softmax, [s], (heads, n, n), cpu)
        mixed = run(mix, [w, v], (n, heads * size), cpu)
        assert nmse(s, reference(scores, [q, k])) < 1e-11
        assert nmse(w, reference(softmax, [s])) < 1e-12
        assert nmse(mixed, reference(mix, [w, v])) < 1e-12
        assert run(fused, [q, k, v], (n, heads * size), cpu).tobytes() == mixed.tobytes()
        seen = attention_mask(n, n, window, causal=False)
        assert ((w != 0) == seen).all()
