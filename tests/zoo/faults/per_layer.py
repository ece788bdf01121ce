"""Faults of what layers are given of the token, of keys that layers share, and of a dense network beside experts."""

from __future__ import annotations

from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import left_out, reading
from tests.zoo.faults.places import each_layer, once
from tests.zoo.planting import Call, Fault
from tests.zoo.subjects import Subject


def _of_the_next_layer(call: Call) -> Array:
    start, stop = call.node.attr_int("start"), call.node.attr_int("stop")
    size, columns = stop - start, call.operands[0].shape[1]
    return call.compute(start=stop % columns, stop=stop % columns + size)


def _shares(subject: Subject, layer: int) -> bool:
    """Whether a layer attends to what another one has cached."""
    graph = subject.graph
    return f"layer{layer}.attn_scores" in graph and all(node.layer != layer for node in graph.with_op("cache"))


def _has_own_norm(subject: Subject, layer: int) -> bool:
    return f"layer{layer}.moe_router_norm" in subject.graph


def _has_factors(subject: Subject, layer: int) -> bool:
    return f"layer{layer}.moe_router_weights" in subject.graph


def _source(call: Call) -> str:
    """The layer whose cache a node of another layer reads, as the beginning of its nodes' names."""
    return call.subject.graph.operand_names(call.node.name)[1].partition(".")[0]


def _layer(call: Call) -> int:
    assert call.node.layer is not None
    return call.node.layer


def _has_one_between(subject: Subject, layer: int) -> bool:
    """Whether a layer shares keys, and the one before it has others of the same sizes."""
    graph = subject.graph
    names = f"layer{layer - 1}.k_cache", f"layer{layer}.attn_scores"
    if not _shares(subject, layer) or names[0] not in graph:
        return False
    (_, shared) = graph.operands(names[1])
    return shared.name != names[0] and shared.type == graph[names[0]].type


FAULTS = (
    Fault(
        "per-layer embedding of another layer",
        "graph",
        "A layer is given what the next one is to have of the token.",
        each_layer({"per_layer_input": _of_the_next_layer}, "per_layer_input"),
    ),
    Fault(
        "per-layer embedding not scaled",
        "graph",
        "The embeddings for each layer are not multiplied by the root of their size.",
        once({"per_layer_embedding": lambda call: call.compute(scale=1.0)}, "per_layer_input"),
    ),
    Fault(
        "projection to the layers forgotten",
        "graph",
        "What layers are given of the token is its embedding for them alone.",
        once({"per_layer_sum": left_out}, "per_layer_input"),
    ),
    Fault(
        "gate of the token not activated",
        "graph",
        "The gate of what a layer is given of the token has no activation.",
        each_layer({"per_layer_activated": left_out}, "per_layer_gated"),
    ),
    Fault(
        "layer's scale forgotten",
        "graph",
        "What a layer gives is not multiplied by its number.",
        each_layer({"layer_out": left_out}, "layer_out"),
    ),
    Fault(
        "values not normalised",
        "graph",
        "v goes into the cache without its norm.",
        each_layer({"v_norm": left_out}, "v_norm"),
    ),
    Fault(
        "shared keys from before RoPE",
        "graph",
        "A layer that shares the keys of an earlier one takes those that were not rotated.",
        each_layer({"attn_scores": reading(1, lambda call: call.values[f"{_source(call)}.k_norm"])}, "attn_scores", when=_shares),
    ),
    Fault(
        "shared keys in place of values",
        "kernel",
        "A layer that shares keys and values of an earlier one mixes the keys.",
        each_layer({"attention": reading(1, lambda call: call.values[f"{_source(call)}.k_post_rope"])}, "attention", when=_shares),
    ),
    Fault(
        "keys of another layer shared",
        "graph",
        "A layer that shares the keys of an earlier one takes those of the layer before it, which sees other positions.",
        each_layer(
            {"attn_scores": reading(1, lambda call: call.values[f"layer{_layer(call) - 1}.k_post_rope"])},
            "attn_scores",
            when=_has_one_between,
        ),
    ),
    Fault(
        "router without its scale",
        "graph",
        "What the router reads is not divided by the root of the hidden size.",
        each_layer({"moe_router_scaled": left_out}, "moe_router_norm"),
    ),
    Fault(
        "router reads what the experts read",
        "graph",
        "The router has no norm of its own, and reads what the experts do.",
        each_layer({"moe_router_logits": reading(0, lambda call: call.near("ffn_norm"))}, "moe_router_logits", when=_has_own_norm),
    ),
    Fault(
        "factors of experts forgotten",
        "graph",
        "The weights of the chosen experts are not multiplied by the experts' factors.",
        each_layer({"moe_router": left_out}, "moe_router", when=_has_factors),
    ),
    Fault(
        "norm of the dense network forgotten",
        "graph",
        "The dense network beside the experts goes into the sum without its norm.",
        each_layer({"ffn_out_norm": left_out}, "ffn_out_norm"),
    ),
    Fault(
        "experts beside the dense network forgotten",
        "graph",
        "Of a dense network and experts beside it, the network alone counts.",
        each_layer({"ffn_sum": left_out}, "ffn_sum"),
    ),
)
