"""The tap: a node that saves its operand and changes nothing."""

from __future__ import annotations

from aprgraph.graph.ops.base import Op
from aprgraph.graph.ops.traits import Role, Traits

TAP = Op(
    "tap",
    "Saves its operand under the node's stage and layer when the run reaches it; its value is the operand.",
    ("x",),
    infer=lambda types, _attrs: types[0],
    reference=lambda operands, _attrs: operands[0],
    traits=Traits(role=Role.TAP),
)
