"""Faults of norms, residuals and what they are applied to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import left_out, reading, with_attrs
from tests.zoo.faults.places import Condition, Sites, each_layer, either, having, where
from tests.zoo.planting import Call, Fault, Patch, Site
from tests.zoo.subjects import Subject


def _each_norm(patch: Patch) -> Sites:
    """The norm of attention in the first and the last layer, that of the FFN in the middle one: before it, or behind where none is before.

    Where one norm serves both, it in all three.
    """

    def sites(subject: Subject) -> list[Site]:
        def of(*names: str) -> list[Site]:
            return [*either(*(each_layer({name: patch}, name) for name in names))(subject)]

        attention, ffn = of("attn_norm", "attn_post_norm", "layer_out_norm"), of("ffn_norm", "ffn_post_norm")
        return [attention[0], (ffn or attention)[1], attention[-1]]

    return sites


def _centred(call: Call) -> Array:
    return np.asarray(call.operands[0] - call.operands[0].mean(axis=1, keepdims=True))


def _has_norms(op: str) -> Callable[[Subject], bool]:
    """Whether the model's norms are ``op``."""
    return lambda subject: subject.model.family.norm_op == op


def _without_the_mean(call: Call) -> Array:
    """The root mean square of what is not centred, and no bias."""
    return call.compute_as("rms_norm", call.operands[:2], **call.node.attrs)


def _normalised_before(call: Call) -> Array:
    """The hidden state after the norm that belongs behind attention."""
    weight = call.subject.weight(f"blk.{call.node.layer}.post_attention_norm.weight")
    return call.compute_as("rms_norm", [call.operands[0], weight], eps=call.subject.model.family.eps, groups=1)


def _behind_attention(call: Call) -> Array:
    """What the FFN of a model reads whose FFN comes after attention: the norm of their sum, by the one norm there is."""
    graph = call.subject.graph
    norm = graph[f"layer{call.node.layer}.attn_norm"]
    x, *names = graph.operand_names(norm.name)
    state = call.values[x] + call.near("attn_out")
    return call.compute_as(norm.op, [state, *map(call.subject.weight, names)], **norm.attrs)


def _has_norms_before(subject: Subject, layer: int) -> bool:
    """Whether the network reads a norm of the hidden state to which it is added."""
    return having("ffn_norm")(subject, layer) and not having("layer_out_norm")(subject, layer)


def _stands_beside(subject: Subject, layer: int) -> bool:
    """Whether attention and FFN of the layer read the same norm."""
    return f"layer{layer}.parallel_sum" in subject.graph and f"layer{layer}.ffn_norm" not in subject.graph


def _over_the_row(call: Call) -> Array:
    """One root mean square for all heads."""
    x, *weights = call.operands
    return call.compute([x, *(np.tile(weight, call.node.attr_int("groups")) for weight in weights)], groups=1)


def _head_by_head(call: Call) -> Array:
    """A root mean square for each head."""
    x, weight = call.operands
    heads = call.subject.graph[f"layer{call.node.layer}.attn_scores"].attr_int("heads")
    return call.compute([x, np.ones(len(weight) // heads, np.float32)], groups=heads) * weight


def _by_length(call: Call) -> Array:
    size = call.operands[0].shape[1] // call.node.attr_int("groups")
    return call.compute() * np.float32(size**-0.5)


def _has_no_weights(subject: Subject, layer: int) -> bool:
    return len(subject.graph.operand_names(f"layer{layer}.q_norm")) == 1


def _norms_have_weights(subject: Subject) -> bool:
    return subject.model.family.norm_weights


def _normalises_heads(subject: Subject, layer: int) -> bool:
    return subject.graph[f"layer{layer}.q_norm"].attr_int("groups") > 1


def _of_another_layer(call: Call) -> Array:
    name = call.subject.graph.operand_names(call.node.name)[1]
    layers = call.subject.model.family.layers
    assert call.node.layer is not None
    others = [name.replace(f"blk.{call.node.layer}.", f"blk.{(call.node.layer + step) % layers}.") for step in range(1, layers)]
    return call.subject.weight(next(other for other in others if other in call.subject.model.file.tensors))


def _after_its_norm(norm: str) -> Patch:
    return reading(0, lambda call: call.near(norm))


def _before_attention(call: Call) -> Array:
    return call.values[call.subject.graph.operand_names(f"layer{call.node.layer}.attn_norm")[0]]


def _in_other_order(norm: str, rope: str) -> dict[str, Patch]:
    """The first of a norm of heads and RoPE gives what the other one should give of it, and the second nothing new."""

    def turned(call: Call, x: Array) -> Array:
        graph = call.subject.graph
        node = graph[f"layer{call.node.layer}.{rope}"]
        return call.compute_as("rope", [x, call.values[graph.operand_names(node.name)[1]]], **{**node.attrs, "start": 0})

    def normed(call: Call) -> Array:
        return call.compute([turned(call, call.operands[0]), *call.operands[1:]])

    def turned_last(call: Call) -> Array:
        graph = call.subject.graph
        node = graph[f"layer{call.node.layer}.{norm}"]
        start, width = (call.node.attr_int("start"), call.node.attr_int("heads") * call.node.attr_int("head_size"))
        x = call.operands[0][:, start : start + width]
        weights = map(call.subject.weight, graph.operand_names(node.name)[1:])
        return turned(call, call.compute_as(node.op, [x, *weights], **node.attrs))

    def patch(call: Call) -> Array:
        graph = call.subject.graph
        mine, other = (call.node.name, f"layer{call.node.layer}.{rope if call.node.name.endswith(norm) else norm}")
        if graph.operand_names(mine)[0] == other:
            return call.operands[0]
        return normed(call) if call.node.name.endswith(norm) else turned_last(call)

    return {norm: patch, rope: patch}


def _norms_come(first: str, second: str) -> Condition:
    """Whether the layer has q first as ``first`` and then as ``second``, and its norm has weights."""

    def when(subject: Subject, layer: int) -> bool:
        graph = subject.graph
        mine = [graph[f"layer{layer}.{name}"] for name in (first, second)]
        has_weights = any(len(graph.operand_names(node.name)) > 1 for node in mine if node.op != "rope")
        return "rope" in {node.op for node in mine} and graph.operand_names(mine[1].name)[0] == mine[0].name and has_weights

    return when


_OTHER_ORDER = {**_in_other_order("q_norm", "q_post_rope"), **_in_other_order("k_norm", "k_post_rope")}
_HEADS = ("q_norm", "k_norm", "q_post_rope", "k_post_rope")


FAULTS = (
    Fault(
        "norms of q and k forgotten",
        "graph",
        "The norms of q and k are left out.",
        each_layer({"q_norm": left_out, "k_norm": left_out}, "q_norm", "k_norm"),
        seen="paiml/aprender#1228",
    ),
    Fault(
        "norms of q and k behind RoPE",
        "graph",
        "Heads of q and k are normalised when RoPE has turned them, where that comes last.",
        each_layer(_OTHER_ORDER, *_HEADS, when=_norms_come("q_norm", "q_post_rope")),
        seen="meta-pytorch/torchtune#2809",
    ),
    Fault(
        "norms of q and k before RoPE",
        "graph",
        "Heads of q and k are normalised before RoPE turns them, where that comes first.",
        each_layer(_OTHER_ORDER, *_HEADS, when=_norms_come("q_post_rope", "q_norm")),
        seen="vllm-project/vllm-metal#660",
    ),
    Fault(
        "norm of q over the row",
        "kernel",
        "The norm of q takes one root mean square for all heads.",
        each_layer({"q_norm": _over_the_row}, "q_norm", when=_normalises_heads),
    ),
    Fault(
        "norm of q head by head",
        "kernel",
        "The norm of q takes a root mean square for each head.",
        each_layer({"q_norm": _head_by_head}, "q_norm", when=lambda subject, layer: not _normalises_heads(subject, layer)),
    ),
    Fault(
        "norm by length",
        "kernel",
        "Heads of q are divided by the root of the sum of their squares, where it should be that of the mean.",
        each_layer({"q_norm": _by_length}, "q_norm", when=_has_no_weights),
    ),
    Fault(
        "eps ten times too small",
        "graph",
        "RMSNorm adds 1e-6 (Llama 1) in place of 1e-5 (Llama 2).",
        # Where norms end layers, what they normalise is never small.
        where(lambda subject: "layer0.layer_out_norm" not in subject.graph, _each_norm(with_attrs(eps=1e-6))),
        variants=("faint",),
        seen="ggml-org/llama.cpp#2373",
    ),
    Fault(
        "LayerNorm for RMSNorm",
        "kernel",
        "The mean is subtracted before the norm.",
        where(_has_norms("rms_norm"), _each_norm(reading(0, _centred))),
    ),
    Fault(
        "RMSNorm for LayerNorm",
        "kernel",
        "The mean is not subtracted before the norm.",
        where(_has_norms("layer_norm"), _each_norm(_without_the_mean)),
    ),
    Fault(
        "1 + weight twice",
        "weights",
        "A norm adds 1 to weights to which conversion has added it already.",
        _each_norm(reading(1, lambda call: call.operands[1] + np.float32(1))),
        families=("gemma", "gemma2", "gemma3", "nemotron"),  # whose checkpoints hold the weight without the 1
        seen="utensils/mold#1078",
    ),
    Fault(
        "norm of another layer",
        "weights",
        "A norm takes the weights of the next layer.",
        where(_norms_have_weights, _each_norm(reading(1, _of_another_layer))),
    ),
    Fault(
        "norm without weights",
        "kernel",
        "A norm leaves its weights out.",
        where(_norms_have_weights, _each_norm(reading(1, lambda call: np.ones_like(call.operands[1])))),
    ),
    Fault(
        "norm after attention forgotten",
        "graph",
        "The norm of the attention's output is left out.",
        each_layer({"attn_post_norm": left_out}, "attn_post_norm"),
    ),
    Fault(
        "norm after the FFN forgotten",
        "graph",
        "The norm of the FFN's output is left out.",
        each_layer({"ffn_post_norm": left_out}, "ffn_post_norm"),
    ),
    Fault(
        "norm before the output projection forgotten",
        "graph",
        "The heads go into the output projection without their norm.",
        each_layer({"attn_sub_norm": left_out}, "attn_sub_norm"),
    ),
    Fault(
        "norm before the down projection forgotten",
        "graph",
        "act(gate) · up goes into the down projection without its norm.",
        each_layer({"ffn_sub_norm": left_out}, "ffn_sub_norm"),
    ),
    Fault(
        "attention residual after its norm",
        "graph",
        "The attention's output is added to the normalised hidden state.",
        each_layer({"post_attn_residual": _after_its_norm("attn_norm")}, "post_attn_residual", when=having("attn_norm")),
    ),
    Fault(
        "FFN residual after its norm",
        "graph",
        "The FFN's output is added to the normalised hidden state.",
        each_layer({"post_ffn_residual": _after_its_norm("ffn_norm")}, "post_ffn_residual", when=_has_norms_before),
    ),
    Fault(
        "residual forgotten",
        "graph",
        "The attention's output replaces the hidden state.",
        each_layer({"post_attn_residual": lambda call: call.operands[1]}, "post_attn_residual"),
    ),
    Fault(
        "residual scale forgotten",
        "graph",
        "The attention's output is added to the hidden state without its scale.",
        each_layer({"attn_out_scaled": left_out}, "post_attn_residual"),
    ),
    Fault(
        "norm before attention in place of behind",
        "graph",
        "Attention reads a normalised hidden state, and what it gives is added as it is.",
        each_layer(
            {"qkv_matmul": reading(0, _normalised_before), "attn_post_norm": left_out},
            "qkv_matmul",
            "attn_post_norm",
            when=lambda subject, layer: f"layer{layer}.attn_norm" not in subject.graph,
        ),
    ),
    Fault(
        "FFN behind attention",
        "graph",
        "The FFN reads the norm of the hidden state to which attention has been added, where both read the same.",
        either(
            each_layer(dict.fromkeys(("ffn_gate", "ffn_up"), reading(0, _behind_attention)), "ffn_gate", "ffn_up", when=_stands_beside),
            each_layer({"ffn_up_matmul": reading(0, _behind_attention)}, "ffn_up", when=_stands_beside),
        ),
    ),
    Fault(
        "FFN beside attention",
        "graph",
        "The FFN's norm reads the hidden state from before attention.",
        each_layer({"ffn_norm": reading(0, _before_attention)}, "ffn_norm", when=having("attn_norm", "post_attn_residual")),
    ),
)
