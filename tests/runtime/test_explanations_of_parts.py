"""Mistakes of a part, of two kinds at once, and of kinds that the zoo has not: planted in models of the zoo, and named."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import mask_of
from aprgraph.runtime import decoded_weights
from aprgraph.runtime.blame import ReplayedModel, audit
from tests.support.arithmetic import to_q8_0
from tests.zoo.faults.patches import then
from tests.zoo.planting import Call, Misreading, Patch, Plant, Stored
from tests.zoo.runs import run
from tests.zoo.subjects import subject

LAYER = "layer1."


def changed(index: int, change: Callable[[Array], Array]) -> Patch:
    """The operand ``index``, changed."""
    return lambda call: call.compute([change(operand) if i == index else operand for i, operand in enumerate(call.operands)])


def at(rows: object, change: Callable[[Array], Array], value: Array) -> Array:
    """A copy of ``value`` of which some is changed."""
    copy = np.array(value)
    copy[rows] = change(copy[rows])  # type: ignore[index]
    return copy


def weight(change: Callable[[Array], Array]) -> Misreading:
    return lambda stored: change(stored.right.copy())


def heads_of(change: Callable[[Array], Array], count: int) -> Callable[[Array], Array]:
    """``change`` of a value as [n, heads, D]."""
    return lambda value: change(value.reshape(len(value), count, -1)).reshape(value.shape)


def turned_as(positions: Callable[[Array], Array]) -> Patch:
    """Positions turned by the rows of others; rows behind the last come of the first two."""

    def patch(call: Call) -> Array:
        x, table = call.operands
        half = table.shape[1] // 2
        step = np.arctan2(table[1, half:], table[1, :half])
        angles = positions(np.arange(len(table)))[:, None] * step
        return call.compute([x, np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)])

    return patch


def norm_by(root: Callable[[Array, float], Array]) -> Patch:
    """An RMSNorm that divides by another root of the mean square and epsilon."""

    def patch(call: Call) -> Array:
        x, own = call.operands
        return np.asarray(x / root(np.square(x).mean(axis=-1, keepdims=True), call.node.attr_float("eps")) * own)

    return patch


def softmax_under(mask: Callable[[Array], Array], axis: int = -1) -> Patch:
    def patch(call: Call) -> Array:
        scores = call.operands[0]
        seen = mask(mask_of(scores.shape[1], scores.shape[2], call.node.attrs))
        weights = np.where(seen, np.exp(scores - scores.max()), 0)
        return np.asarray(weights / weights.sum(axis=axis, keepdims=True))

    return patch


def one_more(mask: Array) -> Array:
    return at((3, 4), lambda _: True, mask)


def low_rank(value: Array) -> Array:
    generator = np.random.default_rng(1)
    rows, columns = value.shape
    return np.asarray(value + 0.05 * generator.standard_normal((rows, 2)) @ generator.standard_normal((2, columns)))


def of_one_expert(change: Callable[[Array], Array]) -> Patch:
    """All that the first token's first expert gives is changed."""

    def patch(call: Call) -> Array:
        ids = call.near("moe_router_indices")
        return at(ids == ids[0, 0], change, call.compute())

    return patch


def capped_first(call: Call) -> Array:
    return call.compute(scale=1.0) * np.float32(call.node.attr_float("scale"))


#: family: node, what it computes: what is said of it.
NODES: dict[str, tuple[str, str, Patch]] = {
    "the norm's weight is 1 more than the file's in every channel, and epsilon is 0.001 in place of 1e-05": (
        "qwen3", "ffn_norm", lambda call: call.compute([call.operands[0], call.operands[1] + 1], eps=1e-3),
    ),
    "query heads 2 to 3 read KV head 0 and query heads 0 to 1 read KV head 1, in place of their own": (
        "llama", "attn_scores", changed(1, heads_of(lambda k: np.roll(k, 1, axis=1), 2)),
    ),
    "query heads 2 to 3 read KV head 0, in place of their own": (
        "llama", "attention", changed(1, heads_of(lambda v: np.repeat(v[:, :1], 2, axis=1), 2)),
    ),
    "positions 5 to 9 are turned as those 1 further on": ("llama", "k_post_rope", turned_as(lambda n: np.where(n < 5, n, n + 1))),
    "positions 7 to 9 are turned as position 6": ("gemma3", "q_post_rope", turned_as(lambda n: np.minimum(n, 6))),
    "RoPE leaves positions 6 to 9 as they are": ("llama", "q_post_rope", turned_as(lambda n: np.where(n < 6, n, 0))),
    "scores are multiplied by 0.75 in place of 0.25, at head 1 alone": ("llama", "attn_scores", then(lambda v: at(1, lambda head: 3 * head, v))),
    "ffn_gate is multiplied by -1, at column 7 alone": ("llama", "ffn_gate", then(lambda v: at((..., 7), np.negative, v))),
    "ffn_norm is multiplied by 2, at positions 2 to 4 alone": ("llama", "ffn_norm", then(lambda v: at(slice(2, 5), lambda x: 2 * x, v))),
    "blk.1.attn_q.bias is added twice at its elements 0 to 31": (
        "qwen2", "qkv_bias", lambda call: np.concatenate([2 * call.compute()[:, :32] - call.operands[0][:, :32], call.compute()[:, 32:]], 1),
    ),
    "blk.1.attn_q.bias is added with its elements in another order": ("qwen2", "qkv_bias", changed(1, lambda bias: bias[::-1])),
    "0.01 is added to each element of attention": ("llama", "attention", then(lambda v: v + np.float32(0.01))),
    "0.01 is added to the root, and not epsilon, 1e-05, under it": ("llama", "ffn_norm", norm_by(lambda square, _: np.sqrt(square) + 1e-2)),
    "the expert 2 behind the chosen one is used": ("mixtral", "moe_expert_gate", changed(1, lambda ids: (ids + 2) % 8)),
    "experts are used in the reverse order of the choice": ("qwen3moe", "moe_expert_up", changed(1, lambda ids: ids[:, ::-1])),
    "moe_expert_activated is ReLU, of expert": ("mixtral", "moe_expert_activated", lambda call: at(
        call.near("moe_router_indices") == call.near("moe_router_indices")[0, 0], lambda _: np.maximum(call.operands[0], 0)[
            call.near("moe_router_indices") == call.near("moe_router_indices")[0, 0]], call.compute())),
    "moe_expert_out is multiplied by 1.5, of expert": ("mixtral", "moe_expert_out", of_one_expert(lambda v: 1.5 * v)),
    "the last of the chosen experts has no weight": (
        "mixtral", "moe_router", lambda call: np.pad(call.compute([call.operands[0], call.operands[1][:, :-1]]), ((0, 0), (0, 1))),
    ),
    "the positions 2, 3 of moe_router have changed places": ("mixtral", "moe_router", then(lambda v: at([2, 3], lambda x: x[::-1], v))),
    "position 9 of ffn_gate holds what position 8 should": ("llama", "ffn_gate", then(lambda v: at(9, lambda _: v[8], v))),
    "the columns of ffn_swigl are those 1 before": ("llama", "ffn_swigl", then(lambda v: np.roll(v, 1, axis=1))),
    "the heads of attention are in the order 1, 0, 3, 2": (
        "llama", "attention", then(heads_of(lambda v: v[:, [1, 0, 3, 2]], 4)),
    ),
    "the columns of attention lie as [D, H] in place of [H, D]": (
        "llama", "attention", then(lambda v: v.reshape(len(v), 4, -1).transpose(0, 2, 1).reshape(v.shape)),
    ),
    "the scores are multiplied by 1.25 before the softmax": ("llama", "attn_softmax", changed(0, lambda scores: scores * np.float32(1.25))),
    "the softmax goes over the queries, and not over the keys": ("llama", "attn_softmax", softmax_under(lambda mask: mask, axis=1)),
    "query 3 sees key 4 too": ("llama", "attn_softmax", softmax_under(one_more)),
    "its window is of 2 positions": ("llama", "attn_softmax", lambda call: call.compute(window=2)),
    "scores are capped at 2 before they are multiplied by": ("gemma2", "attn_scores", capped_first),
}  # fmt: skip


def in_int8(value: Array) -> Array:
    scale = np.abs(value).max(axis=-1, keepdims=True) / np.float32(127)
    return np.asarray(np.rint(value / scale) * scale)


def in_fp8(value: Array) -> Array:
    scale = np.abs(value).max() / np.float32(448)
    return np.asarray((value / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale)


def in_q4_0(value: Array) -> Array:
    return np.asarray(dequantize(quantize(value, GGMLQuantizationType.Q4_0), GGMLQuantizationType.Q4_0))


def in_turn_with_up(stored: Stored) -> Array:
    """gate, up, gate, up, …, of which the first half is taken."""
    both = np.stack([stored.right, stored.subject.weight("blk.1.ffn_up.weight")], axis=1)
    return both.reshape(-1, stored.right.shape[1])[: len(stored.right)]


#: family: tensor, what is read of it: what is said of it.
WEIGHTS: dict[str, tuple[str, str, Misreading]] = {
    "expert 1 has the matrix of expert 3 and expert 3 has the matrix of expert 1, in blk.1.ffn_down_exps.weight": (
        "mixtral", "ffn_down_exps", weight(lambda w: at([1, 3], lambda x: x[::-1], w)),
    ),
    "blk.1.attn_q.weight has a change of rank 2, as of an adapter (LoRA), which the file has not": ("llama", "attn_q", weight(low_rank)),
    "the column 7 of blk.1.ffn_up.weight is taken with the other sign in every sum": (
        "llama", "ffn_up", weight(lambda w: at((..., 7), np.negative, w)),
    ),
    "blk.1.ffn_up.weight is kept in int8 with a scale for each row": ("llama", "ffn_up", weight(in_int8)),
    "blk.1.ffn_down.weight is kept in FP8 (E4M3) with one scale": ("llama", "ffn_down", weight(in_fp8)),
    "blk.1.attn_q.weight is kept in Q4_0": ("llama", "attn_q", weight(in_q4_0)),
    "blk.1.ffn_up_exps.weight is kept in int8 with a scale for each row": ("mixtral", "ffn_up_exps", weight(in_int8)),
    "rows of gate and up lie in turn, and are read as if all of gate came first": ("llama", "ffn_gate", in_turn_with_up),
    "the columns 48 to 79 of blk.1.ffn_down.weight are left out of every sum": (
        "llama", "ffn_down", weight(lambda w: at((..., slice(48, 80)), np.zeros_like, w)),
    ),
    "the columns 0 to 23 of blk.1.ffn_down.weight are counted twice in every sum": (
        "gemma3", "ffn_down", weight(lambda w: at((..., slice(24)), lambda x: 2 * x, w)),
    ),
    "all rows of blk.1.ffn_up.weight are 0.5 to 2 times the file's": (
        "llama", "ffn_up", weight(lambda w: w * np.geomspace(0.5, 2, len(w), dtype=np.float32)[:, None]),
    ),
}  # fmt: skip


def explanations(family: str, plant: Plant, variant: str = "plain") -> dict[str, list[str]]:
    """By label of what is wrong, the words of what explains it."""
    model = subject(family, variant)
    found = audit(run(model, 1000, plant).trace("faulty", model.everything), model.replayed)
    return {local.label: [] if local.explanation is None else [one.words for one in local.explanation.candidates] for local in found.wrong}


@pytest.mark.contract("BLAME-EXPLAINED-3")
@pytest.mark.parametrize("words", NODES)
def test_a_mistake_at_a_node(words: str) -> None:
    family, node, patch = NODES[words]
    found = explanations(family, Plant({LAYER + node: patch}))
    assert len(found) == 1
    assert all(len(said) == 1 and said[0].startswith(words) for said in found.values()), found


@pytest.mark.contract("BLAME-EXPLAINED-3")
@pytest.mark.parametrize("words", WEIGHTS)
def test_a_mistake_of_a_weight(words: str) -> None:
    family, tensor, misreading = WEIGHTS[words]
    found = explanations(family, Plant(weights={f"blk.1.{tensor}.weight": misreading}))
    assert list(found.values()) == [[words]]


def next_layers(stored: Stored) -> Array:
    return stored.subject.weight("blk.2.ffn_down.weight")


@pytest.mark.contract("BLAME-EXPLAINED-3")
@pytest.mark.parametrize(
    ("tensor", "misreading", "words"),
    [
        ("ffn_down", next_layers, "blk.2.ffn_down.weight is multiplied by in place of blk.1.ffn_down.weight"),
        ("ffn_up", weight(in_int8), "blk.1.ffn_up.weight is kept in int8 with a scale for each row"),
        ("ffn_gate", in_turn_with_up, "rows of gate and up lie in turn, and are read as if all of gate came first"),
    ],
)
def test_a_weight_that_is_too_large_to_be_decoded_whole(
    tensor: str, misreading: Misreading, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded_weights, "_WHOLE", 1)
    model = subject("llama")
    trace = run(model, 1000, Plant(weights={f"blk.1.{tensor}.weight": misreading})).trace("faulty", model.everything)
    (wrong,) = audit(trace, ReplayedModel(model.model)).wrong
    assert wrong.explanation is not None
    assert wrong.explanation.cause == words


@pytest.mark.contract("BLAME-EXPLAINED-3")
def test_epsilon_outside_the_root_where_the_values_are_small() -> None:
    plant = Plant({LAYER + "ffn_norm": norm_by(lambda square, eps: np.sqrt(square) + eps)})
    assert explanations("llama", plant, "faint") == {"layer 1 ffn_norm": ["epsilon, 1e-05, is added to the root and not under it"]}


@pytest.mark.contract("BLAME-EXPLAINED-3")
def test_values_that_a_float16_cannot_hold_are_cut_off() -> None:
    plant = Plant({LAYER + "ffn_up": then(lambda value: np.clip(value, -65504, 65504))})
    found = explanations("llama", plant, "large activations")
    assert found == {"layer 1 ffn_up": ["ffn_up is cut off at 65504, the largest float16"]}


@pytest.mark.contract("BLAME-EXPLAINED-3")
def test_the_cache_of_another_layer_explains_every_step() -> None:
    model = subject("llama", "generating")
    keys = model.graph.operand_names("layer0.attn_scores")[1]
    plant = Plant({LAYER + "attn_scores": lambda call: call.compute([call.operands[0], call.values[keys]])})
    found = explanations("llama", plant, "generating")
    assert list(found) == [f"{step}layer 1 attn_scores" for step in ("", "step 1 ", "step 2 ")]
    assert {tuple(said) for said in found.values()} == {("attn_scores reads the cache of layer 0 in place of layer 1",)}


def in_8_bits(call: Call) -> Array:
    """A product of activations that were rounded to 8 bits."""
    return call.compute([to_q8_0(call.operands[0].astype(np.float64)).astype(np.float32), *call.operands[1:]])


@pytest.mark.contract("BLAME-EXPLAINED-2")
def test_noise_beside_a_fault_is_no_part_of_it() -> None:
    """Of one row with the other sign, in a run that rounds activations to 8 bits: nothing is said of the rows that are right."""
    model = subject("llama")
    products = {node.name: in_8_bits for node in model.graph if node.op == "linear"}

    def faulty(call: Call) -> Array:
        return at((..., 7), np.negative, in_8_bits(call))

    def overlapping(call: Call) -> Array:
        x = to_q8_0(call.operands[0].astype(np.float64)).astype(np.float32)
        return call.compute([at((..., slice(24)), lambda part: 2 * part, x), *call.operands[1:]])

    plant = Plant({**products, LAYER + "ffn_up": faulty, "layer2.ffn_out": overlapping})
    found = audit(run(model, 1000, plant).trace("faulty", model.everything), model.replayed, profile="cross-engine-q8act")
    said = {local.label: [] if local.explanation is None else [one.words for one in local.explanation.candidates] for local in found.wrong}
    assert said["layer 1 ffn_up"] == []
    assert said["layer 2 ffn_out"] in ([], ["the columns 0 to 23 of blk.2.ffn_down.weight are counted twice in every sum"])


def noisy_row(stored: Stored) -> Array:
    return at(5, lambda row: row + 0.02 * np.random.default_rng(0).standard_normal(row.shape), stored.right)


NOTHING_KNOWN: dict[str, Plant] = {
    "a row of a weight with noise": Plant(weights={"blk.1.ffn_down.weight": noisy_row}),
    "noise in one head": Plant(
        {LAYER + "attention": then(heads_of(lambda v: at((slice(None), 2), lambda x: x + np.random.default_rng(2).standard_normal(x.shape), v), 4))}
    ),
    "noise at some positions": Plant(
        {LAYER + "q_post_rope": then(lambda v: at(slice(6, 10), lambda x: x + np.random.default_rng(2).standard_normal(x.shape), v))}
    ),
    "noise in the scores": Plant(
        {LAYER + "attn_scores": then(lambda v: np.where(v != 0, v + np.random.default_rng(4).standard_normal(v.shape), 0))}
    ),
    "one element of a sum": Plant({LAYER + "post_attn_residual": then(lambda v: at((4, 7), lambda _: 3.0, v))}),
    "the largest element of a tensor": Plant({LAYER + "ffn_up": then(lambda v: np.where(v == v.max(), 0.9 * v, v))}),
    "another embedding of one token": Plant(
        {"layer0.embedding": then(lambda v: at(4, lambda x: 0.1 * np.random.default_rng(2).standard_normal(x.shape), v))}
    ),
}  # fmt: skip


@pytest.mark.contract("BLAME-EXPLAINED-2")
@pytest.mark.parametrize("fault", NOTHING_KNOWN)
def test_what_nothing_explains_is_not_explained(fault: str) -> None:
    found = explanations("llama", NOTHING_KNOWN[fault])
    assert len(found) >= 1
    assert not any(found.values()), found
