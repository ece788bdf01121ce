"""Faults of RoPE: bases, pairings, positions, frequency factors, and rows of q and k in the other order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import left_out, reading, with_attrs
from tests.zoo.faults.places import Sites, each_layer, each_layer_weight, either, having, once, where
from tests.zoo.planting import Call, Fault, Misreading, Patch, Stored
from tests.zoo.subjects import STEPS, Subject

_ROTATED, _PARTS = ("q_post_rope", "k_post_rope"), ("q_pe", "k_pe")
_ANGLES = ("rope_angles", "rope_angles_sliding")


def _another_base(call: Call) -> Array:
    return call.compute(base=10_000.0 if call.node.attr_float("base") == 1e6 else 1e6)


def _other_pairing(call: Call) -> Array:
    return call.compute(pairing="halves" if call.node.attrs["pairing"] == "interleaved" else "interleaved")


def _not_rotated(call: Call) -> Array:
    start = call.node.attr_int("start")
    return call.operands[0][:, start : start + call.node.attr_int("heads") * call.node.attr_int("head_size")]


def _rotated(call: Call) -> Array:
    """Scores of q and k after RoPE."""
    q, k = call.operands
    heads, kv_heads = call.node.attr_int("heads"), call.node.attr_int("kv_heads")
    turned = [
        call.compute_as(
            "rope", [x, call.values["rope_angles"]], heads=count, head_size=x.shape[1] // count, start=0,
            pairing=call.subject.model.family.row_order,
        )
        for x, count in ((q, heads), (k, kv_heads))
    ]  # fmt: skip
    return call.compute(turned)


def _is_without_rope(subject: Subject, layer: int) -> bool:
    graph = subject.graph
    return "rope_angles" in graph and all(node.layer != layer for node in graph.with_op("rope")) and f"layer{layer}.attn_scores" in graph


def _counts_from_1(subject: Subject) -> bool:
    return "query_temperature" in subject.graph and subject.graph["query_temperature"].attrs.get("offset", 0) == 1


def _other_direction(call: Call) -> Array:
    half = call.operands[1].shape[1] // 2
    return np.concatenate([call.operands[1][:, :half], -call.operands[1][:, half:]], axis=1)


def _half_of_the_head(call: Call) -> Array:
    """Angles of half as many dims: what is left of a head stays as it is."""
    angles = call.operands[1]
    quarter, half = angles.shape[1] // 4, angles.shape[1] // 2
    return np.concatenate([angles[:, :quarter], angles[:, half : half + quarter]], axis=1)


def _shifted(by: int) -> Patch:
    return reading(0, lambda call: call.operands[0] + by)


def _turns_by_its_own_base(subject: Subject, layer: int) -> bool:
    """Whether the model has two bases, and this layer that of those without a window."""
    graph = subject.graph
    return "rope_angles_sliding" in graph and graph.operand_names(f"layer{layer}.q_post_rope")[1] == "rope_angles"


def _permuted_rows(stored: Stored) -> Array:
    """Each head's rows in the order that conversion of `llama` models gives them: 0, D/2, 1, D/2 + 1, …"""
    return _reordered(stored, lambda heads: heads.reshape(len(heads), 2, heads.shape[1] // 2, -1).swapaxes(1, 2))


def _unpermuted_rows(stored: Stored) -> Array:
    """Each head's rows in the order from before that conversion: 0, 2, 4, …, 1, 3, 5, …"""
    return _reordered(stored, lambda heads: heads.reshape(len(heads), heads.shape[1] // 2, 2, -1).swapaxes(1, 2))


def _reordered(stored: Stored, reorder: Callable[[Array], Array]) -> Array:
    """The rows of q and k, head by head; where q, k and v are one tensor, those of v stay."""
    hp = stored.subject.model.family
    value = stored.right.copy()
    rows = len(value) - (hp.kv_heads[0] * hp.head_size if "attn_qkv" in stored.info.name else 0)
    heads = value[:rows].reshape(rows // hp.head_size, hp.head_size, -1)
    value[:rows] = reorder(heads).reshape(rows, -1)
    return value


def _q_and_k(misreading: Misreading) -> Sites:
    """Rows of q and k are misread in layers with RoPE: without it, an order that both have changes nothing behind them."""
    turned = having("q_post_rope")
    return either(
        each_layer_weight(("attn_q.weight", "attn_k.weight"), misreading, "qkv_matmul", when=turned),
        each_layer_weight(("attn_qkv.weight",), misreading, "qkv_matmul", when=turned),
    )


def _is_permuted(subject: Subject) -> bool:
    """Whether conversion to GGUF reorders q and k, so that RoPE turns other pairs in the file than in the checkpoint."""
    return subject.model.family.pairing != subject.model.family.hf_pairing


_DECODED = range(1, STEPS)


def _each_rotation(patch: Patch) -> Sites:
    return either(*(each_layer(dict.fromkeys(names, patch), *names) for names in (_ROTATED, _PARTS)))


def _one_rotation(which: int, patch: Patch) -> Sites:
    """Of q (0) or k (1) alone."""
    return either(*(each_layer({names[which]: patch}, names[which]) for names in (_ROTATED, _PARTS)))


def _all_angles(patch: Patch) -> Sites:
    return once(dict.fromkeys(_ANGLES, patch), *_ROTATED, *_PARTS)


FAULTS = (
    Fault(
        "RoPE base",
        "graph",
        "RoPE turns by base 10,000 in place of 1,000,000, or the reverse.",
        _all_angles(_another_base),
        seen="ml-explore/mlx-examples#112",
    ),
    Fault(
        "RoPE base of the sliding layers",
        "graph",
        "The layer without a window turns by the angles of those with one.",
        each_layer(
            dict.fromkeys(_ROTATED, reading(1, lambda call: call.values["rope_angles_sliding"])), *_ROTATED, when=_turns_by_its_own_base
        ),
        seen="vllm-project/vllm#29111",
    ),
    Fault(
        "RoPE pairing",
        "graph",
        "RoPE pairs (i, i + D/2) where the file has (2i, 2i + 1), or the reverse.",
        _each_rotation(_other_pairing),
        seen="vllm-project/vllm-metal#480",
    ),
    Fault(
        "RoPE in a layer without it",
        "graph",
        "q and k are rotated in a layer that has no RoPE (NoPE).",
        each_layer({"attn_scores": _rotated}, "attn_scores", when=_is_without_rope),
        seen="vllm-project/vllm#23918",
    ),
    Fault(
        "query temperature forgotten",
        "graph",
        "Queries beyond the original context are not scaled by their position.",
        each_layer({"q_scaled": left_out}, "attn_scores"),
    ),
    Fault(
        "query temperature from 1",
        "graph",
        "The temperature of queries counts positions from 1, as in Llama 4.",
        where(lambda subject: not _counts_from_1(subject), once({"query_temperature": _shifted(1)}, "attn_scores")),
    ),
    Fault(
        "query temperature from 0",
        "graph",
        "The temperature of queries counts positions from 0, as in Mistral 3.",
        where(_counts_from_1, once({"query_temperature": with_attrs(offset=0)}, "attn_scores")),
    ),
    Fault("RoPE forgotten on k", "graph", "k is not rotated.", _one_rotation(1, _not_rotated)),
    Fault("RoPE the other way", "kernel", "q and k are turned by the negative angle.", _each_rotation(reading(1, _other_direction))),
    Fault("RoPE of half the head", "graph", "Half of each head's pairs stay as they are.", _each_rotation(reading(1, _half_of_the_head))),
    Fault("positions from 1", "graph", "RoPE counts positions from 1; no score shows it.", _all_angles(_shifted(1))),
    Fault(
        "q rotated one further",
        "kernel",
        "q is turned by the angle of the next position.",
        _one_rotation(0, reading(1, lambda call: np.roll(call.operands[1], -1, axis=0))),
    ),
    Fault(
        "frequency factors forgotten",
        "graph",
        "RoPE without the factors of Llama 3.1 (rope_freqs.weight).",
        _all_angles(lambda call: call.compute(call.operands[:1])),
        variants=("frequency factors",),
        families=("llama",),  # others have no published files with such factors
        seen="ggml-org/llama.cpp#8676",
    ),
    Fault(
        "long factors for a short text",
        "graph",
        "LongRoPE's second set of factors for a text within the original context.",
        _all_angles(reading(1, lambda call: call.subject.weight("rope_factors_long.weight"))),
        variants=("long and short",),
        families=("phi3",),  # the one whose models have two sets
    ),
    Fault(
        "YaRN's magnitude forgotten",
        "graph",
        "cos and sin without YaRN's factor 0.1 · ln(s) + 1.",
        _all_angles(with_attrs(magnitude=1.0)),
        variants=("yarn",),
        families=("qwen2", "qwen3", "gpt-oss"),  # those published with YaRN
    ),
    Fault(
        "q and k rows permuted",
        "weights",
        "Rows of q and k are reordered for RoPE of neighbours in a family that has none.",
        where(lambda subject: not _is_permuted(subject), _q_and_k(_permuted_rows)),
        seen="ggml-org/llama.cpp#3018",
    ),
    Fault(
        "q and k rows not permuted",
        "weights",
        "Rows of q and k are in the order from before conversion.",
        where(_is_permuted, _q_and_k(_unpermuted_rows)),
        seen="karpathy/llama2.c#286",
    ),
    Fault(
        "decoding one position late",
        "graph",
        "RoPE of generated tokens counts one position too many.",
        once(dict.fromkeys(_ANGLES, _shifted(1)), *_ROTATED, *_PARTS, steps=_DECODED),
        variants=("generating",),
    ),
)
