"""The reference: the same graph, interpreted in float64 NumPy. Slow, obvious, no TVM.

Every kernel is tested against it, and it is itself tested against Hugging Face transformers (tests/golden).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import Model
from aprgraph.graph.ops import OPS, Array, Role, traits_of
from aprgraph.graph.passes.apply_arithmetic import OF_GRAPH
from aprgraph.graph.passes.fix_context import fix_context
from aprgraph.runtime.decoded_weights import DecodedWeights

#: The roles of nodes whose values a caller gives.
_GIVEN = (Role.INPUT, Role.RECORDED, Role.RECEIVED)


def evaluate(
    graph: Graph,
    inputs: Mapping[str, Array],
    weight: Callable[[Node, Node], Array],
    states: MutableMapping[str, Array] | None = None,
    change: Callable[[Node, Array], Array] | None = None,
) -> Iterator[tuple[Node, Array]]:
    """Yield every computed node with its value (float64), in execution order; values are dropped after their last use.

    ``inputs`` holds the `input` nodes by name as int64, and the `recorded` and `received` ones as float64; ``weight(node, user)`` decodes
    a `weight` node for a node that reads it. ``states`` holds what earlier passes left in each node with a state, and is
    brought up to date; None for a pass alone. ``change`` gives what others read in the place of a computed node's value. In
    the arithmetic of an engine (the pass apply-arithmetic) the stages are rounded to float32, as they are there: what is
    rounded to 8 bits depends on it. Raises GraphError for an input that is not given.
    """
    states = {} if states is None else states
    in_float32 = OF_GRAPH in graph.attrs
    values: dict[str, Array] = {}
    left = {node.name: len(graph.users(node.name)) for node in graph}
    for node in graph:
        role = traits_of(node).role
        if role is Role.WEIGHT:
            continue
        names = graph.operand_names(node.name)
        if role in _GIVEN:
            try:
                given = inputs[node.name]  # once: each may be a file that is read
            except KeyError:
                raise GraphError(f"the graph's input %{node.name} is not given") from None
            value: Array = np.asarray(given, dtype=np.int64 if role is Role.INPUT else np.float64)
        else:
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                value = compute_node(node, [values[name] if name in values else weight(graph[name], node) for name in names], states)
        if in_float32 and node.stage is not None:
            with np.errstate(over="ignore"):  # beyond float32 is Inf there
                value = value.astype(np.float32).astype(np.float64)
        if change is not None and role not in _GIVEN:
            value = change(node, value)
        values[node.name] = value
        for name in set(names):
            left[name] -= 1
            if not left[name]:
                values.pop(name, None)
        yield node, value


def compute_node(node: Node, operands: Sequence[Array], states: MutableMapping[str, Array]) -> Array:
    """The value of a computed node, in the precision of its operands; ``states`` is brought up to date. Raises GraphError."""
    op = OPS[node.op]
    if op.reference is None:
        raise GraphError(f"the op {node.op!r} of %{node.name} has no reference; run the passes that replace it first")
    if op.traits.state is None:
        return op.reference(operands, node.attrs)
    value, states[node.name] = op.traits.state.advance(operands, node.attrs, states.get(node.name))
    return value


def run_reference(
    graph: Graph, model: Model, tokens: Sequence[int], start: int = 0, states: MutableMapping[str, Array] | None = None
) -> Iterator[tuple[Node, Array]]:
    """Run ``graph`` on ``tokens`` at positions start, start + 1, …; see ``evaluate``."""
    ids = np.asarray(tokens, dtype=np.int64)
    inputs: dict[str, Any] = {"tokens": ids, "positions": np.arange(start, start + len(ids))}
    weights = DecodedWeights(model)
    return evaluate(graph, inputs, weights.read_in_parts, states)


def interpret(graph: Graph, model: Model, tokens: Sequence[int]) -> dict[str, Array]:
    """Every node's value by name, of one pass over ``tokens``. For small models: all of them are kept."""
    return {node.name: value for node, value in run_reference(fix_context(graph, len(tokens)), model, tokens)}
