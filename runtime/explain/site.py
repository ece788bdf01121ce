"""A site: one node of a wrong stage's replay, with what a rule may look at around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from aprgraph.graph.ir import Attr, Graph, Node, renamed
from aprgraph.graph.model import Model
from aprgraph.graph.ops import OPS, Array, is_weight

#: What is computed of one value, and so is known where that is.
_NORMS = ("rms_norm", "layer_norm")
#: Decodes a weight of the model for the node that reads it, float64.
ReadWeight = Callable[[Node, Node], Array]


@dataclass(frozen=True)
class LeftWrong:
    """What a mistake of an earlier step left in a node's state: the mistake's ``name`` and ``words``, and the state's ``value``."""

    name: str
    words: str
    value: Array


@dataclass(frozen=True)
class Around:
    """One step of a trace, and the model: the whole ``graph``, and the nodes of its ``weights``, which ``read`` decodes.

    ``value(name)`` is what the trace recorded of a node in this step, float64, of all positions; None if it did not.
    ``tokens`` are those of the run as far as they are known, ``positions`` those of the step, ``states`` what earlier steps left in nodes,
    ``left_wrong`` what they would have left there by mistakes that explain them.
    """

    model: Model
    graph: Graph
    weights: Sequence[Node]
    read: ReadWeight
    value: Callable[[str], Array | None]
    tokens: Sequence[int]
    positions: Array
    states: Mapping[str, Array]
    left_wrong: Mapping[str, Sequence[LeftWrong]] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A ``node``, the values of its ``operands`` by a right computation, and what was ``recorded`` of it, all float64.

    ``recorded`` is None where the node was not, but lies before one that was. ``due`` is what the node should give. ``within`` are the
    elements that a mistake is looked for in, bool of the shape of ``due``, where the others are right. ``right`` are the values of
    nodes around it by a right computation, as far as there are such.
    """

    node: Node
    operands: Sequence[Array]
    around: Around
    due: Array
    recorded: Array | None = None
    within: Array | None = None
    right: Mapping[str, Array] = field(default_factory=dict)

    def value(self, name: str) -> Array | None:
        """What a node that comes before this one gave: as it was recorded, else as it is right; None where neither is known."""
        found = self.around.value(name)
        if found is None:
            found = self.right.get(name)
        node = self.around.graph[name]
        if found is None and node.op in _NORMS:
            first, *weights = self.around.graph.operands(name)
            read = self.around.value(first.name)
            found = None if read is None else compute(node, [read, *(self.around.read(weight, node) for weight in weights)], self.around)
        return found

    def compute(self, operands: Sequence[Array] | None = None, **attrs: Attr) -> Array:
        """What the node gives from other operands or with other attributes."""
        node = renamed(self.node, attrs={**self.node.attrs, **attrs}) if attrs else self.node
        return compute(node, self.operands if operands is None else operands, self.around)

    @cached_property
    def operand_names(self) -> tuple[str, ...]:
        """The names of the nodes that the node reads, in the model's graph."""
        return self.around.graph.operand_names(self.node.name)

    def weight_names(self) -> list[tuple[int, str]]:
        """The operands that are weights: their places, and the names of their nodes."""
        return [(index, name) for index, name in enumerate(self.operand_names) if is_weight(self.around.graph[name])]

    def weights_like(self, name: str) -> Iterator[Node]:
        """The model's other weights of the dims of the weight node ``name``: of the same place in other layers first."""
        own = self.around.graph[name]
        others = [node for node in self.around.weights if is_weight(node) and node.name != name and node.type.dims == own.type.dims]
        slot = slot_of(own)
        layer = layer_of(own)

        def order(node: Node) -> tuple[bool, int]:
            other = layer_of(node)
            return slot_of(node) != slot, 0 if other is None or layer is None else abs(other - layer)

        yield from sorted(others, key=order)

    @property
    def called(self) -> str:
        """What words call the node: its stage, or what it is within its layer."""
        return self.label_of(self.node)

    @property
    def read_by(self) -> str:
        """What words call the stage that reads the node, or the node itself if that is one."""
        readers = [node for node in self.around.graph.users(self.node.name) if node.stage is not None]
        return self.called if self.node.stage is not None or not readers else self.label_of(readers[0])

    def label(self, index: int) -> str:
        """What words call an operand."""
        return self.label_of(self.around.graph[self.operand_names[index]])

    def label_of(self, node: Node) -> str:
        """What words call a node of the graph: a weight by its tensor, others by their stage, with the layer if it is another."""
        if is_weight(node):
            return node.attr_str("tensor")
        name = node.stage or node.name.rpartition(".")[2]
        return name if node.layer in (None, self.node.layer) else f"layer {node.layer}'s {name}"

    def read(self, weight: Node) -> Array:
        """A weight of the model, decoded for this node."""
        return self.around.read(weight, self.node)

    @property
    def earlier(self) -> Array | None:
        """The node's state before this step."""
        return self.around.states.get(self.node.name)

    @property
    def left_wrong(self) -> Sequence[LeftWrong]:
        """What mistakes of earlier steps left in the node's state."""
        return self.around.left_wrong.get(self.node.name, ())

    def fits(self, value: Array) -> bool:
        """Whether ``value`` leaves less than a hundredth of what the recorded values are off, if they are known."""
        if self.recorded is None:
            return True
        if value.shape != self.recorded.shape:
            return False
        if self.within is not None:
            value = np.where(self.within, value, self.due)
        return bool(np.isfinite(value).all()) and is_left(self.recorded, value, self.due)

    def seen(self) -> tuple[Array, Array]:
        """What was recorded, and what should have been, of the elements that a mistake is looked for in: without their shape if not all."""
        assert self.recorded is not None
        return (self.recorded, self.due) if self.within is None else (self.recorded[self.within], self.due[self.within])

    def factor(self) -> float:
        """By what the elements that a mistake is looked for in are multiplied, as nearly as one number says it."""
        recorded, due = self.seen()
        energy = float(np.vdot(due, due))
        return float(np.vdot(recorded, due)) / energy if energy else 1.0

    def fits_at(self, value: Array, where: slice) -> bool:
        """The same of some positions."""
        return self.recorded is not None and is_left(self.recorded[where], value[where], self.due[where])


def compute(node: Node, operands: Sequence[Array], around: Around) -> Array:
    """The value of a node in this step, from operands, float64."""
    op = OPS[node.op]
    with np.errstate(all="ignore"):
        if op.traits.state is not None:
            return op.traits.state.advance(operands, node.attrs, around.states.get(node.name))[0]
        assert op.reference is not None
        return op.reference(operands, node.attrs)


def is_left(recorded: Array, value: Array, due: Array) -> bool:
    """Whether ``value`` leaves less than a hundredth of the energy that ``recorded`` is off ``due``."""
    off = float(np.square(recorded - due).sum())
    return float(np.square(recorded - value).sum()) <= LEFT * off


#: An alternative leaves less than this part of the error's energy, whatever tolerances would allow.
LEFT = 1e-2


def layer_of(weight: Node) -> int | None:
    """The layer that a weight is of, by the name of its tensor: ``blk.<layer>.``."""
    parts = weight.attr_str("tensor").split(".")
    return int(parts[1]) if parts[0] == "blk" and len(parts) > 2 and parts[1].isdigit() else None


def slot_of(weight: Node) -> str:
    """A weight's place in a layer: the name of its tensor without that of the layer."""
    tensor = weight.attr_str("tensor")
    return tensor if layer_of(weight) is None else tensor.split(".", 2)[2]
