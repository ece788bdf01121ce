"""What each tensor of a trace was computed from: the trace's own graph, or what is known of the stages without one.

Generated steps depend on earlier ones: through the keys and values that attention reads back, and through the logits
that the next token was picked from.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

import networkx as nx

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import has_state, is_input, is_tap, is_weight
from aprgraph.graph.ops.attention import is_causal
from aprgraph.graph.stages import STAGES
from aprgraph.runtime.diff.align import Key
from aprgraph.runtime.trace.reader import Trace

#: A value of one step: the step, and the node's name in the graph.
Value = tuple[int, str]


@dataclass
class Dependencies:
    """``graph`` has an edge from every value to those computed from it; ``value_of`` finds the value of a tensor.

    Graph inputs (tokens, positions) are left out: two runs that are compared have the same. ``weights`` are values
    that come from the model file. ``causal``: no position depends on later ones, as far as is known.
    """

    graph: nx.DiGraph[Value] = field(default_factory=nx.DiGraph)
    value_of: dict[Key, Value] = field(default_factory=dict)
    weights: set[Value] = field(default_factory=set)
    causal: bool = True

    def add(self, value: Value, operands: Iterable[Value], key: Key | None = None) -> None:
        """Add a value, after its operands."""
        self.graph.add_node(value)
        self.graph.add_edges_from((operand, value) for operand in operands if operand in self.graph)
        if key is not None:
            self.value_of[key] = value

    def link(self, source: Key, target: Key) -> None:
        """Add an edge between two tensors, if both are there."""
        if source in self.value_of and target in self.value_of:
            self.graph.add_edge(self.value_of[source], self.value_of[target])

    def behind(self, sources: Container[Value]) -> set[Value]:
        """Every value with one of ``sources`` among its proper ancestors."""
        found: set[Value] = set()
        for value in nx.topological_sort(self.graph):
            if any(operand in sources or operand in found for operand in self.graph.predecessors(value)):
                found.add(value)
        return found


def find_dependencies(a: Trace, b: Trace, keys: Iterable[Key]) -> Dependencies:
    """The dependencies among the tensors ``keys``: of A's graph, else of B's, whichever knows them all, else of the stage table."""
    keys = list(keys)
    steps = sorted({step for step, _, _ in keys})
    for trace in (a, b):
        graph = trace.graph()
        if graph is not None:
            found = from_graph(graph, steps)
            if all(key in found.value_of for key in keys):
                return found
    return from_stage_table(keys)


def from_graph(graph: Graph, steps: Iterable[int] = (0,)) -> Dependencies:
    """The dependencies of ``graph``, run once per step."""
    result = Dependencies(causal=all(is_causal(node.attrs) for node in graph))
    previous: int | None = None
    for step in steps:
        for node in graph:
            if is_tap(node) or is_input(node):
                continue
            value = (step, node.name)
            key = (step, node.layer, node.stage) if node.stage is not None else None
            operands = [(step, name) for name in graph.operand_names(node.name)]
            if previous is not None and has_state(node):  # it holds the earlier positions too
                operands.append((previous, node.name))
            result.add(value, operands, key)
            if is_weight(node):
                result.weights.add(value)
        if previous is not None:
            result.link((previous, None, "lm_head"), (step, 0, "embedding"))
        previous = step
    return result


#: What each stage is computed from within its layer. ``hidden`` is the layer's input. A stage that a model does not
#: have (a bias, a norm, the experts) stands aside: what uses it then uses what it was computed from.
_INPUTS: Mapping[str, tuple[str, ...]] = {
    "attn_norm": ("hidden",),
    "qkv_matmul": ("attn_norm",),
    "qkv_bias": ("qkv_matmul",),
    "q_norm": ("qkv_bias",),
    "k_norm": ("qkv_bias",),
    "q_post_rope": ("q_norm",),
    "k_post_rope": ("k_norm",),
    "attn_scores": ("q_post_rope", "k_post_rope"),
    "attn_softmax": ("attn_scores",),
    "attention": ("attn_softmax", "qkv_bias"),
    "attn_out": ("attention",),
    "attn_post_norm": ("attn_out",),
    "post_attn_residual": ("hidden", "attn_post_norm"),
    "ffn_norm": ("post_attn_residual",),
    "ffn_gate": ("ffn_norm",),
    "ffn_up": ("ffn_norm",),
    "ffn_silu": ("ffn_gate",),
    "ffn_swigl": ("ffn_silu", "ffn_up"),
    "ffn_out": ("ffn_swigl",),
    "moe_router_logits": ("ffn_norm",),
    "moe_router_indices": ("moe_router_logits",),
    "moe_router": ("moe_router_logits", "moe_router_indices"),
    "moe_expert_gate": ("ffn_norm", "moe_router_indices"),
    "moe_expert_up": ("ffn_norm", "moe_router_indices"),
    "moe_expert_swigl": ("moe_expert_gate", "moe_expert_up"),
    "moe_expert_out": ("moe_expert_swigl", "moe_router_indices"),
    "moe_ffn_out": ("moe_expert_out", "moe_router", "ffn_out"),  # the last of a shared expert
    "ffn_post_norm": ("ffn_out", "moe_ffn_out"),
    "post_ffn_residual": ("post_attn_residual", "ffn_post_norm"),
}
_OPTIONAL = {"qkv_bias", "q_norm", "k_norm", "attn_post_norm", "ffn_post_norm"}
#: Present in layers of dense models, and in layers of mixture-of-experts models.
_DENSE = {"ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out"}
_EXPERTS = {stage.name for stage in STAGES if stage.name.startswith("moe_")}


def from_stage_table(keys: Iterable[Key]) -> Dependencies:
    """The dependencies of any model of the stage table, as far as the tensors ``keys`` show which stages it has.

    Layers between two recorded ones stand as one value, ``layers 3..6``.
    """
    keys = list(keys)
    seen = {stage for _, _, stage in keys}
    layers = sorted({layer for _, layer, _ in keys if layer is not None})
    absent = _OPTIONAL - seen
    # A layer has one kind of FFN unless both kinds were seen (dense layers before the first experts).
    if not seen & _EXPERTS:
        absent |= _EXPERTS
    elif not seen & _DENSE:
        absent |= _DENSE
    result = Dependencies()
    previous: int | None = None
    for step in sorted({step for step, _, _ in keys}):
        _add_step(result, step, layers, absent, previous)
        previous = step
    for key in keys:
        if key not in result.value_of:
            result.add((key[0], _name(key[1], key[2])), (), key)
    return result


def _name(layer: int | None, stage: str) -> str:
    return stage if layer is None else f"layer{layer}.{stage}"


def _add_step(result: Dependencies, step: int, layers: list[int], absent: set[str], previous: int | None) -> None:
    hidden: tuple[Value, ...] = ()
    above = 0
    if layers and layers[0] == 0:
        result.add((step, "layer0.embedding"), (), (step, 0, "embedding"))
        hidden = ((step, "layer0.embedding"),)
    for layer in layers:
        if layer > above:
            gap = (step, f"layers {above}..{layer}")
            result.add(gap, hidden)
            hidden = (gap,)
        values: dict[str, tuple[Value, ...]] = {"hidden": hidden}
        for stage, inputs in _INPUTS.items():
            operands = tuple(value for name in inputs for value in values[name])
            if stage in absent:
                values[stage] = operands
                continue
            value = (step, _name(layer, stage))
            result.add(value, operands, (step, layer, stage))
            values[stage] = (value,)
        hidden = values["post_ffn_residual"]
        above = layer + 1
        if previous is not None:
            result.link((previous, layer, "k_post_rope"), (step, layer, "attn_scores"))
            for v in ("qkv_matmul", "qkv_bias"):
                result.link((previous, layer, v), (step, layer, "attention"))
    result.add((step, "final_norm"), hidden, (step, None, "final_norm"))
    result.add((step, "lm_head"), [(step, "final_norm")], (step, None, "lm_head"))
    if previous is not None:
        result.link((previous, None, "lm_head"), (step, 0, "embedding"))
