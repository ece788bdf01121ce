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
from aprgraph.graph.ops import OPS, Array
from aprgraph.graph.passes.fix_context import fix_context
from aprgraph.runtime.decoded_weights import DecodedWeights


def evaluate(
    graph: Graph,
    inputs: Mapping[str, Array],
    weight: Callable[[Node], Array],
    *,
    embedding: Callable[[Node, Array], Array] | None = None,
    caches: MutableMapping[str, Array] | None = None,
) -> Iterator[tuple[Node, Array]]:
    """Yield every computed node with its value (float64), in execution order; values are dropped after their last use.

    ``inputs`` holds the `input` nodes by name as int64, and the `recorded` ones as float64; ``weight`` decodes a `weight` node;
    ``embedding(node, tokens)`` may give the rows of an embedding table alone. ``caches`` holds what earlier passes left in each
    `cache` node, and is brought up to date. Raises GraphError for an input that is not given.
    """
    values: dict[str, Array] = {}
    left = {node.name: len(graph.users(node.name)) for node in graph}
    for node in graph:
        if node.op == "weight":
            continue
        names = graph.operand_names(node.name)
        if node.op in ("input", "recorded"):
            if node.name not in inputs:
                raise GraphError(f"the graph's input %{node.name} is not given")
            value: Array = np.asarray(inputs[node.name], dtype=np.int64 if node.op == "input" else np.float64)
        elif node.op == "embed" and embedding is not None:
            rows = embedding(graph[names[1]], values[names[0]])
            value = _reference(node, [np.arange(len(rows)), rows])
        else:
            value = _reference(node, [values[name] if name in values else weight(graph[name]) for name in names])
        if node.op == "cache" and caches is not None:
            value = np.concatenate([caches[node.name], value]) if node.name in caches else value
            caches[node.name] = value
        values[node.name] = value
        for name in set(names):
            left[name] -= 1
            if not left[name]:
                values.pop(name, None)
        yield node, value


def _reference(node: Node, operands: Sequence[Array]) -> Array:
    function = OPS[node.op].reference
    if function is None:
        raise GraphError(f"the op {node.op!r} of %{node.name} has no reference; run the passes that replace it first")
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        return function(operands, node.attrs)


def run_reference(
    graph: Graph, model: Model, tokens: Sequence[int], start: int = 0, caches: MutableMapping[str, Array] | None = None
) -> Iterator[tuple[Node, Array]]:
    """Run ``graph`` on ``tokens`` at positions start, start + 1, …; see ``evaluate``."""
    ids = np.asarray(tokens, dtype=np.int64)
    inputs: dict[str, Any] = {"tokens": ids, "positions": np.arange(start, start + len(ids))}
    weights = DecodedWeights(model)
    return evaluate(graph, inputs, lambda node: weights.read(graph, node), embedding=weights.embedding_rows, caches=caches)


def interpret(graph: Graph, model: Model, tokens: Sequence[int]) -> dict[str, Array]:
    """Every node's value by name, of one pass over ``tokens``. For small models: all of them are kept."""
    return {node.name: value for node, value in run_reference(fix_context(graph, len(tokens)), model, tokens)}
