"""Faults of heads that are split or merged by a reshape: without a transpose, element by element, or q, k and v together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import reading
from tests.zoo.faults.places import Condition, Sites, each_layer, either
from tests.zoo.planting import Call, Fault, Patch
from tests.zoo.subjects import Subject

#: Of a value [n, heads · D] and its number of heads.
_Slip = Callable[[Array, int], Array]


def merged_straight(value: Array, heads: int) -> Array:
    """[heads, n, D] reshaped to [n, heads · D]."""
    return value.reshape(len(value), heads, -1).swapaxes(0, 1).reshape(value.shape)


def split_straight(value: Array, heads: int) -> Array:
    """[n, heads · D] reshaped to [heads, n, D], as which it goes on."""
    return value.reshape(heads, len(value), -1).swapaxes(0, 1).reshape(value.shape)


def _in_turn(value: Array, heads: int) -> Array:
    """[n, heads · D] reshaped to [n, D, heads]: each head has every so manyth element."""
    return value.reshape(len(value), -1, heads).swapaxes(1, 2).reshape(value.shape)


def _by_element(value: Array, heads: int) -> Array:
    """[n, D, heads] reshaped to [n, heads · D]."""
    return value.reshape(len(value), heads, -1).swapaxes(1, 2).reshape(value.shape)


def _merged(slip: _Slip) -> Patch:
    def patch(call: Call) -> Array:
        return slip(call.compute(), call.subject.graph[f"layer{call.node.layer}.attn_scores"].attr_int("heads"))

    return patch


def _split(slip: _Slip, count: str = "heads", index: int = 0) -> Patch:
    """An operand whose heads are split otherwise; of RoPE, the columns that it turns."""

    def split(call: Call) -> Array:
        value, heads = np.array(call.operands[index]), call.node.attr_int(count)
        start = call.node.attrs.get("start", 0)
        assert isinstance(start, int)
        stop = start + heads * call.node.attr_int("head_size") if "head_size" in call.node.attrs else value.shape[1]
        value[:, start:stop] = slip(value[:, start:stop], heads)
        return value

    return reading(index, split)


def _has_kv_heads(subject: Subject, layer: int) -> bool:
    return subject.graph[f"layer{layer}.attn_scores"].attr_int("kv_heads") > 1


def _mixes(subject: Subject, layer: int) -> bool:
    """Whether attention mixes v itself, and not a latent that v is made of."""
    return "kv_heads" in subject.graph[f"layer{layer}.attention"].attrs


def _of_q(patch: Patch) -> Sites:
    return either(each_layer({"q_post_rope": patch}, "q_post_rope"), each_layer({"attn_scores": patch}, "attn_scores", when=_has_kv_heads))


def _without(*names: str) -> Condition:
    return lambda subject, layer: not any(f"layer{layer}.{name}" in subject.graph for name in names)


def _by_groups(call: Call) -> Array:
    """q, k and v side by side, read as KV groups of some heads of q, one of k and one of v."""
    x, scores = call.operands[0], call.subject.graph[f"layer{call.node.layer}.attn_scores"]
    heads, kv_heads = scores.attr_int("heads"), scores.attr_int("kv_heads")
    group = heads // kv_heads
    groups = x.reshape(len(x), kv_heads, group + 2, -1)
    return np.concatenate(
        [part.reshape(len(x), -1) for part in (groups[:, :, :group], groups[:, :, group], groups[:, :, group + 1])], axis=1
    )


FAULTS = (
    Fault(
        "heads merged without a transpose",
        "kernel",
        "What attention gives, [heads, positions, D], is reshaped straight to [positions, heads · D].",
        each_layer({"attention": _merged(merged_straight)}, "attention"),
    ),
    Fault(
        "heads merged element by element",
        "kernel",
        "What attention gives is merged as [positions, D · heads].",
        each_layer({"attention": _merged(_by_element)}, "attention"),
    ),
    Fault(
        "q split without a transpose",
        "kernel",
        "q, [positions, heads · D], is reshaped straight to [heads, positions, D].",
        _of_q(_split(split_straight)),
    ),
    Fault(
        "q and k split element by element",
        "kernel",
        "q and k are split into heads as [positions, D, heads].",
        each_layer(dict.fromkeys(("q_post_rope", "k_post_rope"), _split(_in_turn)), "q_post_rope", "k_post_rope"),
    ),
    Fault(
        "v split without a transpose",
        "kernel",
        "v, [positions, KV heads · D], is reshaped straight to [KV heads, positions, D].",
        each_layer({"attention": _split(split_straight, "kv_heads", 1)}, "attention", when=_mixes),
    ),
    Fault(
        "q, k and v by KV groups",
        "kernel",
        "q, k and v, which lie side by side, are split as if they lay KV group by KV group.",
        each_layer(
            dict.fromkeys(("q_post_rope", "k_post_rope", "v"), reading(0, _by_groups)), "q_post_rope", "k_post_rope", "attention",
            when=_without("q_norm", "k_norm", "v_norm", "q"),
        ),
    ),
)  # fmt: skip
