"""Faults of norms, residuals and what they are applied to."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import left_out, reading, with_attrs
from tests.zoo.faults.places import Sites, each_layer
from tests.zoo.planting import Call, Fault, Patch, Site
from tests.zoo.subjects import Subject


def _each_norm(patch: Patch) -> Sites:
    """The norm before attention in the first and the last layer, the one before the FFN in the middle one."""

    def sites(subject: Subject) -> list[Site]:
        middle = subject.layers[1]
        before_attention = each_layer({"attn_norm": patch}, "attn_norm", when=lambda _, layer: layer != middle)
        before_ffn = each_layer({"ffn_norm": patch}, "ffn_norm", when=lambda _, layer: layer == middle)
        first, last = before_attention(subject)
        return [first, *before_ffn(subject), last]

    return sites


def _centred(call: Call) -> Array:
    return np.asarray(call.operands[0] - call.operands[0].mean(axis=1, keepdims=True))


def _over_the_row(call: Call) -> Array:
    """One root mean square for all heads."""
    x, weight = call.operands
    return call.compute([x, np.tile(weight, call.node.attr_int("groups"))], groups=1)


def _of_another_layer(call: Call) -> Array:
    name = call.subject.graph.operand_names(call.node.name)[1]
    layers = call.subject.model.family.layers
    assert call.node.layer is not None
    return call.subject.weight(name.replace(f"blk.{call.node.layer}.", f"blk.{(call.node.layer + 1) % layers}."))


def _after_its_norm(norm: str) -> Patch:
    return reading(0, lambda call: call.near(norm))


def _before_attention(call: Call) -> Array:
    return call.values[call.subject.graph.operand_names(f"layer{call.node.layer}.attn_norm")[0]]


FAULTS = (
    Fault(
        "norms of q and k forgotten",
        "graph",
        "The per-head norms of q and k are left out.",
        each_layer({"q_norm": left_out, "k_norm": left_out}, "q_norm", "k_norm"),
        seen="paiml/aprender#1228",
    ),
    Fault(
        "norm of q over the row",
        "kernel",
        "The norm of q takes one root mean square for all heads.",
        each_layer({"q_norm": _over_the_row}, "q_norm"),
    ),
    Fault(
        "eps ten times too small",
        "graph",
        "RMSNorm adds 1e-6 (Llama 1) in place of 1e-5 (Llama 2).",
        _each_norm(with_attrs(eps=1e-6)),
        variants=("faint",),
        seen="ggml-org/llama.cpp#2373",
    ),
    Fault("LayerNorm for RMSNorm", "kernel", "The mean is subtracted before the norm.", _each_norm(reading(0, _centred))),
    Fault(
        "1 + weight twice",
        "weights",
        "A norm adds 1 to weights to which conversion has added it already.",
        _each_norm(reading(1, lambda call: call.operands[1] + np.float32(1))),
        families=("gemma3",),  # whose checkpoints hold the weight without the 1
        seen="utensils/mold#1078",
    ),
    Fault("norm of another layer", "weights", "A norm takes the weights of the next layer.", _each_norm(reading(1, _of_another_layer))),
    Fault(
        "norm without weights",
        "kernel",
        "A norm leaves its weights out.",
        _each_norm(reading(1, lambda call: np.ones_like(call.operands[1]))),
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
        "attention residual after its norm",
        "graph",
        "The attention's output is added to the normalised hidden state.",
        each_layer({"post_attn_residual": _after_its_norm("attn_norm")}, "post_attn_residual"),
    ),
    Fault(
        "FFN residual after its norm",
        "graph",
        "The FFN's output is added to the normalised hidden state.",
        each_layer({"post_ffn_residual": _after_its_norm("ffn_norm")}, "post_ffn_residual"),
    ),
    Fault(
        "residual forgotten",
        "graph",
        "The attention's output replaces the hidden state.",
        each_layer({"post_attn_residual": lambda call: call.operands[1]}, "post_attn_residual"),
    ),
    Fault(
        "FFN beside attention",
        "graph",
        "The FFN's norm reads the hidden state from before attention.",
        each_layer({"ffn_norm": reading(0, _before_attention)}, "ffn_norm"),
    ),
)
