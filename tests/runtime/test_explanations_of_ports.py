"""Mistakes that are made where a model is ported to another engine: planted in models of the zoo, and named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aprgraph.graph.ops import Array
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.blame import audit
from aprgraph.runtime.explain.half_precision import bfloat16, float16
from aprgraph.runtime.readings import TraceAsRead
from tests.runtime.test_explanations_of_parts import LAYER, explanations
from tests.zoo.planting import Call, Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import subject

N = 10
_QUERIES, _KEYS = np.arange(N)[:, None], np.arange(N)[None]
CAUSAL = _KEYS <= _QUERIES
#: As a mask of the keys of one pass alone lies at the keys of two.
TOP_LEFT = np.where(_QUERIES >= 5, _KEYS <= _QUERIES - 5, CAUSAL)
#: What comes first is seen both ways, as a prefix or an image is.
PREFIX = CAUSAL | ((_QUERIES < 4) & (_KEYS < 4))


def scores_under(seen: Array) -> Patch:
    """Scores with -inf where a mask hides them."""
    return lambda call: np.where(seen, call.compute(causal=False), np.float32(-np.inf))


def softmax(call: Call) -> Array:
    """Without a mask of its own: the scores have it."""
    return call.compute(causal=False)


def attention(call: Call) -> Array:
    return call.compute(causal=False)


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_keys_hidden_by_scores_are_named_though_the_softmax_follows() -> None:
    found = explanations("llama", Plant({f"{LAYER}attn_scores": scores_under(TOP_LEFT)}))
    assert found == {"layer 1 attn_scores": ["query 5 does not see keys 1 to 5 (4 more queries differ too)"]}


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_keys_that_scores_hide_are_not_said_to_be_seen() -> None:
    """A softmax without a mask, of scores that have one, sees no more than these show."""
    plant = Plant({f"{LAYER}attn_scores": scores_under(PREFIX), f"{LAYER}attn_softmax": softmax, f"{LAYER}attention": attention})
    said = ["query 0 sees keys 1 to 3 too (2 more queries differ too)"]
    assert explanations("llama", plant) == {f"layer 1 {stage}": said for stage in ("attn_scores", "attn_softmax", "attention")}


def turned_by(table: Callable[[Array], Array]) -> Patch:
    """q or k, turned by a table of what becomes of the angles [n, pairs]."""

    def patch(call: Call) -> Array:
        x, own = call.operands
        half = own.shape[1] // 2
        angles = np.arange(len(own))[:, None] * np.arctan2(own[1, half:], own[1, :half])
        return call.compute([x, table(angles).astype(np.float32)])

    return patch


def of_angles(angles: Array) -> Array:
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


ROUNDED: dict[str, Callable[[Array], Array]] = {
    "RoPE's frequencies are rounded to bfloat16": lambda angles: of_angles(np.arange(N)[:, None] * bfloat16(angles[1])),
    "RoPE's angles are rounded to bfloat16": lambda angles: of_angles(bfloat16(angles)),
    "cos and sin of RoPE are rounded to bfloat16": lambda angles: bfloat16(of_angles(angles)),
    "RoPE's table is computed in bfloat16: positions, frequencies, angles, cos and sin are rounded": lambda angles: bfloat16(
        of_angles(bfloat16(np.arange(N)[:, None] * bfloat16(angles[1])))
    ),
}


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize("words", ROUNDED)
def test_rope_in_half_precision(words: str) -> None:
    """Of two mistakes that fit as well, as half of the pairs unturned and any frequencies, none is said."""
    assert explanations("llama", Plant({f"{LAYER}q_post_rope": turned_by(ROUNDED[words])})) == {"layer 1 q_post_rope": [words]}


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_a_causal_mask_of_minus_infinity_where_none_belongs() -> None:
    plant = Plant(
        {f"{LAYER}attn_scores": lambda call: np.where(np.tri(*call.compute().shape[1:], dtype=bool), call.compute(), np.float32(-np.inf))}
    )
    assert explanations("bert", plant) == {"layer 1 attn_scores": ["no query sees a key behind it"]}


def _softmax(x: Array) -> Array:
    return np.asarray(np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True))


def _over_all(call: Call) -> Array:
    x, own = call.operands
    return np.asarray(x / np.sqrt(np.square(x).mean() + call.node.attr_float("eps")) * own)


def norm_in(rounded: Callable[[Array], Array], *steps: str) -> Patch:
    """An RMSNorm of which the squares, their mean, the root or what is multiplied is rounded: one of ``steps``, or all of them."""

    def kept(step: str, value: Array) -> Array:
        return rounded(value) if step in steps or not steps else value

    def patch(call: Call) -> Array:
        x, own = kept("x", call.operands[0]), call.operands[1]
        mean = kept("mean", kept("squares", x * x).mean(axis=-1, keepdims=True))
        root = kept("root", 1 / np.sqrt(kept("root", mean + call.node.attr_float("eps"))))
        return np.asarray(kept("weighted", kept("normed", x * root) * kept("weighted", own)))

    return patch


def shares(change: Callable[[Array], Array]) -> Patch:
    return lambda call: change(call.compute(normalise=False))


def dropped(call: Call) -> Array:
    """Dropout of a tenth, as in training."""
    value = call.compute()
    return np.where(np.random.default_rng(0).random(value.shape) < 0.1, np.float32(0), value / np.float32(0.9))


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def scores(change: Callable[[Array], Array]) -> Patch:
    return lambda call: np.where(CAUSAL, change(call.compute(cap=0.0)), np.float32(0))


#: family: node, what it computes: what is said of it. The scores of the zoo's Gemma 2 are capped at 2.
NODES: dict[str, tuple[str, str, Patch]] = {
    "ffn_norm is normalised twice, its weight included": (
        "llama", "ffn_norm", lambda call: call.compute([call.compute(), call.operands[1]]),
    ),
    "the norm takes one root mean square for all positions together": ("llama", "ffn_norm", _over_all),
    "the norm is computed in bfloat16, each of its steps": ("llama", "ffn_norm", norm_in(bfloat16)),
    "the squares of the norm are rounded to bfloat16": ("llama", "ffn_norm", norm_in(bfloat16, "squares")),
    "the sum, or the mean, of the norm's squares is rounded to float16": ("llama", "ffn_norm", norm_in(float16, "mean")),
    "the norm is rounded to bfloat16 before its weight, and behind it": ("llama", "ffn_norm", norm_in(bfloat16, "normed", "weighted")),
    "the weights of the chosen experts go through a second softmax": ("qwen3moe", "moe_router", shares(_softmax)),
    "the weights of the chosen experts are divided by their number, 2, and not by their sum": ("qwen3moe", "moe_router", shares(lambda x: x / 2)),
    "the weights of the chosen experts are divided by the largest, and not by their sum": (
        "qwen3moe", "moe_router", shares(lambda x: x / x.max(axis=-1, keepdims=True)),
    ),
    "attn_scores goes through 2 · tanh(x), without the division by 2": ("gemma2", "attn_scores", scores(lambda x: 2 * np.tanh(x))),
    "attn_scores goes through tanh(x / 2), and is not multiplied by 2": ("gemma2", "attn_scores", scores(lambda x: np.tanh(x / 2))),
    "dropout of 0.1 is left on: 57 of 640 elements of ffn_out are 0, and the others 1.111 times as large": ("gpt2", "ffn_out", dropped),
    "dropout of 0.1 is left on: 19 of 220 elements of attn_softmax are 0, and the others 1.111 times as large": ("llama", "attn_softmax", dropped),
    "the activation is that of the product, and not of ffn_gate alone": (
        "llama", "ffn_swigl", lambda call: silu(call.near("ffn_gate") * call.near("ffn_up")),
    ),
    "ffn_swigl multiplies by ffn_up + 1": ("llama", "ffn_swigl", lambda call: call.operands[0] * (call.operands[1] + 1)),
    "ffn_swigl adds ffn_silu and ffn_up, and does not multiply them": ("llama", "ffn_swigl", lambda call: call.operands[0] + call.operands[1]),
    "attn_scores is cut off at 2, and not by tanh": ("gemma2", "attn_scores", scores(lambda x: np.clip(x, -2, 2))),
}  # fmt: skip


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize("words", NODES)
def test_a_mistake_at_a_node(words: str) -> None:
    family, node, patch = NODES[words]
    assert explanations(family, Plant({LAYER + node: patch})) == {f"layer 1 {node}": [words]}


def chosen(call: Call, scores: Array) -> Array:
    return np.take_along_axis(scores, call.operands[1].astype(np.int64), axis=-1)


def _second_of_all(call: Call) -> Array:
    """SparseMixer whose second expert has a share beside the first."""
    scores, ids = call.operands
    weights, best = call.compute(), chosen(call, scores)[:, 1:]
    near = best - scores <= call.node.attr_float("tolerance") * np.maximum(np.abs(scores), best)
    shares = np.where(near, np.exp(scores - best), 0)
    weights[:, 1] = np.take_along_axis(shares / shares.sum(axis=-1, keepdims=True), ids[:, 1:].astype(np.int64), axis=-1)[:, 0]
    return weights


def _by_biased(call: Call) -> Array:
    weights = chosen(call, call.near("moe_router_scores"))
    return weights / weights.sum(axis=-1, keepdims=True) * np.float32(call.node.attr_float("scale"))


#: What is said: family, node, what it computes, the stage that shows it, stages that were not recorded.
ROUTERS: dict[str, tuple[str, str, Patch, str, tuple[str, ...]]] = {
    "moe_router_shares is a softmax, and no sigmoid": (
        "dots1", "moe_router_shares", lambda call: _softmax(call.operands[0]), "moe_router_scores", (),
    ),
    "the weights are of moe_router_scores, by which experts are chosen, bias and all": (
        "deepseek2", "moe_router", _by_biased, "moe_router", ("moe_router_scores",),
    ),
    "experts are chosen among the best 3 groups, and not among 2": (
        "deepseek2", "moe_router_indices", lambda call: call.compute(used_groups=3), "moe_router_indices", (),
    ),
    "experts are chosen without blk.1.ffn_gate_inp.bias": (
        "gpt-oss", "moe_router_indices", lambda call: call.compute([call.near("moe_router_logits_matmul")]), "moe_router_indices", (),
    ),
    "the weights are of scores without blk.1.ffn_gate_inp.bias": (
        "gpt-oss", "moe_router", lambda call: call.compute([call.near("moe_router_logits_matmul"), call.operands[1]]), "moe_router", (),
    ),
    "no 1 is added to moe_expert_up": (
        "gpt-oss", "moe_expert_swigl", lambda call: call.compute([call.operands[0], call.operands[1] - 1]), "moe_expert_swigl", (),
    ),
    "moe_expert_swigl is silu(moe_expert_gate) * moe_expert_up, without limits and numbers": (
        "gpt-oss", "moe_expert_swigl", lambda call: silu(call.operands[0]) * call.operands[1], "moe_expert_swigl", (),
    ),
    "the weights of the chosen experts are divided by their sum": (
        "phimoe", "moe_router", lambda call: call.compute() / call.compute().sum(axis=-1, keepdims=True), "moe_router", (),
    ),
    "the best expert has a share in the weights of the others too": ("phimoe", "moe_router", _second_of_all, "moe_router", ()),
}  # fmt: skip


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize("words", ROUTERS)
def test_a_router_as_that_of_another_family(words: str) -> None:
    family, node, patch, stage, left_out = ROUTERS[words]
    model = subject(family)
    trace = run(model, 1000, Plant({LAYER + node: patch})).trace("faulty", model.everything)
    part = TraceAsRead(trace, places={entry.key: None for entry in trace if entry.stage in left_out})
    found = audit(part, model.replayed)
    assert {local.label: local.cause for local in found.wrong} == {f"layer 1 {stage}": words}


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_embeddings_of_positions_that_count_padding() -> None:
    plant = Plant({"layer0.embedding_of_positions": lambda call: call.compute([call.operands[0] + 5, call.operands[1]])})
    words = "embedding_of_positions looks up the row 5 behind, as where positions are counted from 5"
    assert explanations("gpt2", plant) == {"layer 0 embedding": [words]}


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_squares_beyond_float16_are_said_with_the_positions() -> None:
    def large(call: Call) -> Array:
        return np.where(np.arange(N)[:, None] == 3, np.float32(3000), np.float32(1)) * call.compute()

    found = explanations("llama", Plant({f"{LAYER}post_attn_residual": large, f"{LAYER}ffn_norm": norm_in(float16, "squares")}))
    words = "the squares of the norm are rounded to float16: beyond its range at position 3, which the norm leaves at 0"
    assert found["layer 1 ffn_norm"] == [words]


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize("taps", ["ffn_silu,ffn_swigl", "ffn_swigl"])
def test_the_activation_of_up_in_place_of_the_gate(taps: str) -> None:
    nodes: dict[str, Patch] = {
        f"{LAYER}ffn_silu": lambda call: silu(call.near("ffn_up")),
        f"{LAYER}ffn_swigl": lambda call: call.operands[0] * call.near("ffn_gate"),
    }
    model = subject("llama")
    plan = parse_plan(f"ffn_gate,ffn_up,{taps}", "0..3")
    found = audit(run(model, 1000, Plant(nodes)).trace("faulty", plan), model.replayed)
    said = {local.key.stage: local.explanation and local.explanation.cause for local in found.wrong}
    assert said == dict.fromkeys(taps.split(","), "the activation is that of ffn_up, and ffn_gate has none")
