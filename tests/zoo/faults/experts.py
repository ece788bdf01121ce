"""Faults of mixtures of experts."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.router import groups_of
from tests.zoo.faults.patches import left_out, reading, then, with_attrs
from tests.zoo.faults.places import MULTIPLICATION, Condition, Sites, each_layer, either, having
from tests.zoo.planting import Call, Fault, Patch
from tests.zoo.subjects import Subject


def _weighing(subject: Subject, layer: int) -> Node:
    """The node that makes weights of scores: that of the stage, or the one before its experts' factors."""
    graph = subject.graph
    return next(graph[name] for name in (f"layer{layer}.moe_router_weights", f"layer{layer}.moe_router") if name in graph)


def _weights(patch: Patch, when: Condition) -> Sites:
    return either(*(each_layer({name: patch}, "moe_router", when=when) for name in ("moe_router_weights", "moe_router")))


def _normalises(subject: Subject, layer: int) -> bool:
    return _weighing(subject, layer).attrs["normalise"] is True


def _divides(subject: Subject, layer: int) -> bool:
    """Whether weights are shares of one softmax, or sigmoids, and divided by their sum."""
    return not _is_sparse(subject, layer) and _normalises(subject, layer)


def _is_sparse(subject: Subject, layer: int) -> bool:
    return _weighing(subject, layer).op == "sparse_mixer"


def _softmax_over_all(call: Call) -> Array:
    return call.compute_as("router_weights", call.operands, normalise=True, scale=1.0, gating="softmax")


def _twice_as_far(call: Call) -> Array:
    return call.compute_as("sparse_mixer", call.operands, tolerance=2 * call.node.attr_float("tolerance"))


def _highest_id(call: Call) -> Array:
    """Of equal scores the higher id comes first."""
    scores = call.operands[0]
    backwards = np.argsort(-scores[:, ::-1], axis=-1, kind="stable")[:, : call.node.attr_int("k")]
    return scores.shape[1] - 1 - backwards


def _smallest(call: Call) -> Array:
    return call.compute([-call.operands[0]])


def _next_expert(call: Call) -> Array:
    return (call.operands[1] + 1) % len(call.operands[2])


def _weights_in_another_order(call: Call) -> Array:
    return call.operands[1][:, ::-1]


def _one_expert_is_nan(call: Call) -> Array:
    """The expert that the last position likes best."""
    value, ids = call.compute().copy(), call.operands[1]
    value[ids == ids[-1, 0]] = np.nan
    return value


def _last_expert_forgotten(call: Call) -> Array:
    return call.compute([operand[:, :-1] for operand in call.operands])


def _unweighed(call: Call) -> Array:
    x, weights = call.operands
    return np.repeat(x[:, None], weights.shape[1], axis=1)


def _weighed_sum(call: Call) -> Array:
    return np.asarray(np.einsum("nkc,nk->nc", call.operands[0], call.near("moe_router")))


def _has_sigmoids(subject: Subject, layer: int) -> bool:
    return _weighing(subject, layer).attrs.get("gating") == "sigmoid"


def _has_groups(subject: Subject, layer: int) -> bool:
    return groups_of(subject.graph[f"layer{layer}.moe_router_indices"].attrs).count > 1


def _counts_by_two(subject: Subject, layer: int) -> bool:
    return groups_of(subject.graph[f"layer{layer}.moe_router_indices"].attrs).best > 1


def _has_scale(subject: Subject, layer: int) -> bool:
    return _weighing(subject, layer).attrs.get("scale", 1.0) != 1.0


def _biased(call: Call) -> Array:
    """The weights are of the sigmoids with their bias."""
    ids, scale = call.operands[1].astype(np.int64), call.node.attr_float("scale")
    weights = np.take_along_axis(call.near("moe_router_scores"), ids, axis=-1)
    return weights / weights.sum(axis=-1, keepdims=True) * np.float32(scale)


def _bfloat16(value: Array) -> Array:
    bits = value.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


FAULTS = (
    Fault(
        "router weights not renormalised",
        "graph",
        "The weights of the chosen experts are left as the softmax over all gives them.",
        _weights(with_attrs(normalise=False), _divides),
        seen="pytorch/torchtitan#1448",
    ),
    Fault(
        "router softmax after top-k",
        "graph",
        "The softmax runs over the chosen experts alone, which renormalises.",
        _weights(with_attrs(normalise=True), lambda subject, layer: not _is_sparse(subject, layer) and not _normalises(subject, layer)),
        seen="lablup/mlxcel#391",
    ),
    Fault(
        "softmax in place of sigmoids",
        "graph",
        "The weights of the chosen experts are shares of a softmax.",
        _weights(with_attrs(gating="softmax"), _has_sigmoids),
    ),
    Fault(
        "softmax over all experts",
        "graph",
        "SparseMixer's weights are shares of a softmax over all experts, divided by their sum.",
        each_layer({"moe_router": _softmax_over_all}, "moe_router", when=_is_sparse),
    ),
    Fault(
        "experts twice as far below",
        "graph",
        "Experts that are twice as far below the best as they should have a share of its weight.",
        each_layer({"moe_router": _twice_as_far}, "moe_router", when=_is_sparse),
    ),
    Fault(
        "scale of router weights forgotten",
        "graph",
        "The weights of the chosen experts are not multiplied by the model's factor.",
        _weights(with_attrs(scale=1.0), _has_scale),
    ),
    Fault(
        "bias of the choice in the weights",
        "graph",
        "The bias that experts are chosen with counts in their weights too.",
        each_layer({"moe_router": _biased}, "moe_router", when=having("moe_router_scores")),
    ),
    Fault(
        "bias of the choice forgotten",
        "graph",
        "Experts are chosen by the router's sigmoids alone.",
        each_layer({"moe_router_scores": left_out}, "moe_router_scores"),
    ),
    Fault(
        "groups of experts forgotten",
        "graph",
        "Experts are chosen among all, not among those of the best groups.",
        each_layer({"moe_router_indices": with_attrs(groups=1, used_groups=1, best_of_group=1)}, "moe_router_indices", when=_has_groups),
    ),
    Fault(
        "groups by one expert",
        "graph",
        "A group of experts counts by its best, where it should by its two best.",
        each_layer({"moe_router_indices": with_attrs(best_of_group=1)}, "moe_router_indices", when=_counts_by_two),
    ),
    Fault(
        "wrong expert on a tie",
        "kernel",
        "Of experts with equal scores the higher id is chosen.",
        each_layer({"moe_router_indices": _highest_id}, "moe_router_indices"),
        variants=("tied experts",),
    ),
    Fault(
        "smallest scores chosen",
        "kernel",
        "top-k sorts the other way.",
        each_layer({"moe_router_indices": _smallest}, "moe_router_indices"),
    ),
    Fault(
        "router in bfloat16",
        "kernel",
        "Router scores are rounded to bfloat16.",
        each_layer({"moe_router_logits": then(_bfloat16)}, "moe_router_logits"),
    ),
    Fault(
        "next expert's down",
        "kernel",
        "The down projection is that of the expert behind the chosen one.",
        either(*(each_layer({f"moe_expert_out{node}": reading(1, _next_expert)}, "moe_expert_out") for node in MULTIPLICATION)),
    ),
    Fault(
        "biases of experts forgotten",
        "graph",
        "The bias of the down projection is left out.",
        each_layer({"moe_expert_out": left_out}, "moe_expert_out", when=having("moe_expert_out_matmul")),
    ),
    Fault(
        "NaN from one expert", "kernel", "One expert's output is NaN.", each_layer({"moe_expert_out": _one_expert_is_nan}, "moe_expert_out")
    ),
    Fault(
        "router weights in another order",
        "kernel",
        "Each expert's output gets another one's weight.",
        either(
            each_layer({"moe_expert_in": reading(1, _weights_in_another_order)}, "moe_expert_in"),
            each_layer({"moe_expert_sum": reading(1, _weights_in_another_order)}, "moe_ffn_out"),
            each_layer({"moe_latent_sum": reading(1, _weights_in_another_order)}, "moe_latent_sum"),
            each_layer({"moe_ffn_out": reading(1, _weights_in_another_order)}, "moe_ffn_out"),
        ),
    ),
    Fault(
        "weights on the outputs of experts",
        "graph",
        "The weights of the chosen experts go into their outputs, where they should go into their inputs.",
        each_layer({"moe_expert_in": _unweighed, "moe_expert_sum": _weighed_sum}, "moe_expert_in", "moe_ffn_out"),
    ),
    Fault(
        "last expert left out",
        "kernel",
        "The sum has one expert less.",
        either(
            each_layer({"moe_expert_sum": _last_expert_forgotten}, "moe_ffn_out"),
            each_layer({"moe_latent_sum": _last_expert_forgotten}, "moe_latent_sum"),
            each_layer({"moe_ffn_out": _last_expert_forgotten}, "moe_ffn_out"),
        ),
    ),
    Fault(
        "shared expert forgotten",
        "graph",
        "The sum is that of the chosen experts alone.",
        either(
            *(each_layer({"moe_ffn_out": left_out}, "moe_ffn_out", when=having(total)) for total in ("moe_expert_sum", "moe_latent_out"))
        ),
    ),
    Fault(
        "shared expert's gate forgotten",
        "graph",
        "The shared expert's output is added whole.",
        each_layer({"shared_expert": left_out}, "moe_ffn_out"),
        seen="NousResearch/torchtitan#36",
    ),
)
