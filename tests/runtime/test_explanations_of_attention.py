"""Mistakes of attention that are made where a model is ported: planted in models of the zoo at every node that they show at, and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import mask_of
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.blame import audit
from tests.support.arithmetic import to_q8_0
from tests.zoo.faults.attention import ALL
from tests.zoo.faults.attention import FAULTS as OF_ATTENTION
from tests.zoo.faults.norms import FAULTS as OF_NORMS
from tests.zoo.faults.patches import reading, then, with_attrs
from tests.zoo.planting import Call, Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import subject

LAYER = "layer1."
CAPPED = "masked keys take part in the softmax, with a score of -2 and not of -inf: the soft cap of 2 comes after the mask"
BEHIND = "the norm of heads comes behind RoPE, and not before it"


def explanations(family: str, nodes: Mapping[str, Patch], taps: str = "all") -> dict[str, list[str]]:
    """By label of what is wrong, the words of what explains it."""
    model = subject(family)
    trace = run(model, 1000, Plant(nodes)).trace("faulty", parse_plan(taps, f"0..{model.model.family.layers}"))
    found = audit(trace, model.replayed)
    return {local.label: [] if local.explanation is None else [one.words for one in local.explanation.candidates] for local in found.wrong}


def planted(name: str, family: str) -> Mapping[str, Patch]:
    """What a fault of the zoo plants in layer 1."""
    fault = next(fault for fault in (*OF_ATTENTION, *OF_NORMS) if fault.name == name)
    return next(site.plant.nodes for site in fault.sites(subject(family)) if site.layer == 1)


def said_of(words: str, *stages: str) -> dict[str, list[str]]:
    return {f"layer 1 {stage}": [words] for stage in stages}


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("stages", [ALL, ("attention",)])
def test_a_cap_after_the_mask_is_told_by_whatever_was_recorded(stages: tuple[str, ...]) -> None:
    found = explanations("gemma2", planted("soft cap after the mask", "gemma2"), f"qkv_matmul,q_post_rope,k_post_rope,{','.join(stages)}")
    assert found == said_of(CAPPED, *stages)


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_weights_alone_tell_that_masked_keys_have_one_score() -> None:
    """Of which they do not tell the number, where neither scores nor what these are computed from were recorded."""
    found = explanations("gemma2", planted("soft cap after the mask", "gemma2"), "qkv_matmul,attn_softmax,attention")
    assert found["layer 1 attention"] == ["masked keys take part in the softmax, all with one score that is finite"]


def masked_with(score: float) -> Patch:
    def patch(call: Call) -> Array:
        seen = mask_of(*call.operands[0].shape[1:], call.node.attrs)
        return call.compute([np.where(seen, call.operands[0], np.float32(score))], causal=False)

    return patch


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("score", ["0", "-3"])
def test_keys_that_a_mask_leaves_a_score(score: str) -> None:
    """1e-9 for -1e9 is 0, and no query sees the scores of later keys."""
    nodes = {LAYER + "attn_softmax": masked_with(float(score) or 1e-9), LAYER + "attention": with_attrs(causal=False)}
    words = f"masked keys take part in the softmax, with a score of {score} and not of -inf"
    assert explanations("llama", nodes) == said_of(words, "attn_softmax", "attention")


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_a_second_softmax_sees_masked_keys_if_nothing_hides_them() -> None:
    nodes = {
        LAYER + "attn_softmax": lambda call: call.compute([call.compute()], causal=False),
        LAYER + "attention": with_attrs(causal=False),
    }
    words = "the softmax is taken twice, the second time over masked keys too"
    assert explanations("llama", nodes) == said_of(words, "attn_softmax", "attention")


def with_one_more(call: Call) -> Array:
    """exp(s) / (1 + the sum of exp(s)): a sink of 0."""
    scores = call.operands[0]
    seen = mask_of(*scores.shape[1:], call.node.attrs)
    sums = np.where(seen, np.exp(scores), 0).sum(axis=-1, keepdims=True)
    return np.asarray(call.compute() * sums / (1 + sums))


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_a_sink_that_the_model_has_not_is_no_padding() -> None:
    found = explanations("llama", {LAYER + "attn_softmax": with_one_more})
    assert found == said_of("each head has a sink beside its keys, of 0, which the file has not", "attn_softmax")


@pytest.mark.contract("BLAME-EXPLAINED-2")
@pytest.mark.parametrize("heads", [slice(None), 1])
def test_a_factor_of_every_query_is_no_padding(heads: object) -> None:
    def halved(call: Call) -> Array:
        value = call.compute()
        value[heads] *= np.float32(0.5)  # type: ignore[index]
        return value

    (said,) = explanations("llama", {LAYER + "attn_softmax": halved}).values()
    assert said == ["attn_softmax is multiplied by 0.5" + ("" if heads == slice(None) else ", at head 1 alone")]


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("words", ["with the weight of k's norm", "without a weight"])
def test_v_is_normalised(words: str) -> None:
    def normed(call: Call) -> Array:
        weights, v = call.operands
        heads = v.reshape(len(v), 2, -1)
        own = call.subject.weight("blk.1.attn_k_norm.weight") if words.startswith("with the") else 1
        return call.compute([weights, (heads / np.sqrt(np.square(heads).mean(-1, keepdims=True) + 1e-5) * own).reshape(v.shape)])

    assert explanations("qwen3", {LAYER + "attention": normed}) == said_of(f"v is normalised head by head, {words}", "attention")


def turned_first(which: str) -> Patch:
    """The heads of q or k, turned and not normalised."""

    def patch(call: Call) -> Array:
        return call.compute([call.near(which), call.values["rope_angles"]])

    return patch


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_norms_behind_rope_where_the_norms_were_not_recorded() -> None:
    found = explanations("qwen3", planted("norms of q and k behind RoPE", "qwen3"), "qkv_matmul,q_post_rope,k_post_rope,attn_scores")
    assert found == said_of(BEHIND, "q_post_rope", "k_post_rope")


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_norms_behind_rope_where_scores_read_the_norms() -> None:
    """Each tap stands where its name says it does: q_post_rope holds what RoPE gives, q_norm what the norm makes of that."""
    last = planted("norms of q and k behind RoPE", "qwen3")
    nodes = {
        **{LAYER + norm: last[LAYER + norm] for norm in ("q_norm", "k_norm")},
        **{LAYER + f"{which}_post_rope": turned_first(which) for which in ("q", "k")},
        LAYER + "attn_scores": lambda call: call.compute([call.near("q_norm"), call.near("k_norm")]),
    }
    assert explanations("qwen3", nodes) == said_of(BEHIND, "q_norm", "k_norm", "q_post_rope", "k_post_rope", "attn_scores")


def scaled(axes: tuple[int, ...], most: float, rounded: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def kept(x: Array) -> Array:
        heads = x.reshape(len(x), 2, -1)
        scale = np.abs(heads).max(axis=axes, keepdims=True) / np.float32(most)
        return np.asarray((rounded(heads / scale) * scale).reshape(x.shape))

    return kept


def in_blocks(name: str) -> Callable[[Array], Array]:
    kind = GGMLQuantizationType[name]
    return lambda x: dequantize(quantize(x, kind), kind)


def to_fp8(x: Array) -> Array:
    return x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


CACHES: dict[str, Callable[[Array], Array]] = {
    "int8 with a scale for each position and head": scaled((2,), 127, np.rint),
    "int8 with a scale for each channel": scaled((0,), 127, np.rint),
    "int8 with a scale for the whole tensor": scaled((0, 1, 2), 127, np.rint),
    "FP8 (E4M3) with a scale for each head": scaled((0, 2), 448, to_fp8),
    "Q8_0": in_blocks("Q8_0"),
    "Q4_0": in_blocks("Q4_0"),
    "Q5_1": in_blocks("Q5_1"),
}


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("words", CACHES)
def test_a_cache_of_few_bits(words: str) -> None:
    kept = reading(1, lambda call: CACHES[words](call.operands[1]))
    found = explanations("llama", {LAYER + "attn_scores": kept, LAYER + "attention": kept})
    assert found == said_of(f"k and v of the KV cache are {words}", "attn_scores", "attention")


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_queries_are_rounded_beside_a_cache_in_blocks() -> None:
    """As in llama.cpp, whose products of Q8_0 are of Q8_0."""

    def scores(call: Call) -> Array:
        q, k = call.operands
        return call.compute([to_q8_0(q.astype(np.float64)).astype(np.float32), in_blocks("Q8_0")(k)])

    assert explanations("llama", {LAYER + "attn_scores": scores}) == said_of("k and v of the KV cache are Q8_0", "attn_scores")


def scores_of_keys_turned_again(call: Call) -> Array:
    """What lies in the cache is turned by the angles of its positions whenever it is read."""
    q, k = call.operands
    if call.step == 0:
        return call.compute()
    graph = call.subject.graph
    table = call.compute_as("rope_angles", [np.arange(len(k) - 1)], **graph["rope_angles"].attrs)
    again = call.compute_as("rope", [k[:-1], table], **{**graph[LAYER + "k_post_rope"].attrs, "start": 0})
    return call.compute([q, np.concatenate([again, k[-1:]])])


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_keys_that_are_turned_again_in_the_cache() -> None:
    model = subject("llama", "generating")
    trace = run(model, 1000, Plant({LAYER + "attn_scores": scores_of_keys_turned_again})).trace("faulty", model.everything)
    found = {local.label: local.explanation and local.explanation.cause for local in audit(trace, model.replayed).wrong}
    assert found == {f"step {step} layer 1 attn_scores": "the keys that lie in the cache are turned by RoPE again" for step in (1, 2)}


@pytest.mark.contract("BLAME-EXPLAINED-2")
@pytest.mark.parametrize("stage", ["attn_softmax", "attention", "attn_scores"])
def test_noise_of_attention_is_none_of_these(stage: str) -> None:
    noise = np.random.default_rng(7)
    plant = {LAYER + stage: then(lambda value: np.where(value != 0, value * (1 - 0.1 * noise.random(value.shape)), 0))}
    assert explanations("llama", plant) == {f"layer 1 {stage}": []}


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("by", [1, -1, None])
def test_a_window_by_what_comes_of_attention_alone(by: int | None) -> None:
    """Scores, softmax and mixing have it, none of which was recorded: a window is one mistake of all three."""
    graph = build_graph(subject("gemma2").model)
    own = next(node.attr_int("window") for node in graph if node.op == "attn_softmax" and node.attr_int("window"))
    layer = next(node.layer for node in graph if node.op == "attn_softmax" and node.attr_int("window"))
    size = 0 if by is None else own + by
    stages = ("attn_scores", "attn_softmax", "attention")
    found = explanations("gemma2", {f"layer{layer}.{stage}": with_attrs(window=size) for stage in stages}, "attn_norm,attn_out")
    words = "it has no window" if by is None else f"its window is of {size} positions in place of {own}"
    assert found == {f"layer {layer} attn_out": [words]}
