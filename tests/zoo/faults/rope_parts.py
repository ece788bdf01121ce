"""Faults of RoPE of a part of each head: another part, frequencies of another size; and RoPE twice, or by the angles of heads."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.rope import has_ramp
from tests.zoo.faults.patches import reading
from tests.zoo.faults.places import Condition, Sites, each_layer
from tests.zoo.planting import Call, Fault, Patch
from tests.zoo.subjects import Subject

_ROTATED = ("q_post_rope", "k_post_rope")


def _angles_of(subject: Subject, layer: int) -> Node:
    graph = subject.graph
    return graph[graph.operand_names(f"layer{layer}.q_post_rope")[1]]


def _is_plain(subject: Subject, layer: int) -> bool:
    """Whether the angles are those of a base alone."""
    angles = _angles_of(subject, layer)
    return not has_ramp(angles.attrs) and len(subject.graph.operand_names(angles.name)) == 1


def _is_partial(subject: Subject, layer: int) -> bool:
    """Whether RoPE turns a part of each head."""
    rotated = subject.graph[f"layer{layer}.q_post_rope"]
    return _is_plain(subject, layer) and _angles_of(subject, layer).attr_int("dims") < rotated.attr_int("head_size")


def _rotations(patch: Patch, when: Condition = _is_plain) -> Sites:
    return each_layer(dict.fromkeys(_ROTATED, patch), *_ROTATED, when=when)


def _table(call: Call, dims: int, whole: int) -> Array:
    """Angles [n, dims] of the frequencies base^(-2i / whole)."""
    angles = _angles_of(call.subject, call.node.layer or 0)
    turned = call.values["positions"][:, None] * angles.attr_float("base") ** (-np.arange(0, dims, 2) / whole)
    return np.asarray(angles.attr_float("magnitude") * np.concatenate([np.cos(turned), np.sin(turned)], axis=1), np.float32)


def _whole_head(call: Call) -> Array:
    size = call.node.attr_int("head_size")
    return _table(call, size, size)


def _half(call: Call) -> Array:
    half = call.operands[1].shape[1] // 2
    return _table(call, half, half)


def _frequencies_of_the_head(call: Call) -> Array:
    return _table(call, call.operands[1].shape[1], call.node.attr_int("head_size"))


def _twice(call: Call) -> Array:
    return call.compute([call.compute(), call.operands[1]], start=0)


def _behind_the_others(call: Call) -> Array:
    heads = call.compute().reshape(len(call.operands[0]), call.node.attr_int("heads"), -1)
    return np.roll(heads, -call.operands[1].shape[1], axis=-1).reshape(len(heads), -1)


def _angles_of_heads(call: Call) -> Array:
    x, angles = call.operands
    start, size = call.node.attr_int("start"), call.node.attr_int("head_size")
    rows = [np.broadcast_to(row, angles.shape) for row in angles[: call.node.attr_int("heads")]]
    return np.concatenate([call.compute([x, row], heads=1, start=start + head * size) for head, row in enumerate(rows)], axis=1)


FAULTS = (
    Fault("RoPE twice", "graph", "q and k are turned by RoPE twice.", _rotations(_twice, when=lambda *_: True)),
    Fault(
        "RoPE of the whole head",
        "graph",
        "RoPE turns all elements of each head, where a part is to be turned (partial_rotary_factor, rope.dimension_count).",
        _rotations(reading(1, _whole_head), when=_is_partial),
    ),
    Fault(
        "RoPE of half the head by its own frequencies",
        "graph",
        "RoPE turns half of what it should of each head, by the frequencies that go with that many elements.",
        _rotations(reading(1, _half)),
    ),
    Fault(
        "frequencies of the whole head",
        "graph",
        "RoPE turns the right part of each head, by base^(-2i / head size) in place of base^(-2i / size of the part).",
        _rotations(reading(1, _frequencies_of_the_head), when=_is_partial),
    ),
    Fault(
        "turned elements behind the others",
        "kernel",
        "The part of each head that RoPE has turned is put behind the part that it has not.",
        _rotations(_behind_the_others, when=_is_partial),
    ),
    Fault(
        "positions of a head",
        "kernel",
        "RoPE takes the axis of heads for that of positions: head h is turned as position h.",
        _rotations(_angles_of_heads, when=lambda *_: True),
    ),
)
