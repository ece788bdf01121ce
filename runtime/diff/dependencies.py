"""What each tensor of a trace was computed from: the trace's own graph, or what is known of the stages without one.

Generated steps depend on earlier ones: through the keys and values that attention reads back, and through the logits
that the next token was picked from.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import has_state, is_input, is_tap, is_weight
from aprgraph.graph.ops.attention import is_causal
from aprgraph.graph.stages import EMBEDDING, END_OF_LAYER, HIDDEN, LOGITS, OF_EMBEDDING, STAGE_BY_NAME, Stage, end_of_layer
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.reader import Trace

#: A value of one step: the step, and the node's name in the graph.
Value = tuple[int, str]


@dataclass
class Dependencies:
    """``operands`` has what each value is computed from, in a topological order, ``readers`` what is computed from it.

    ``value_of`` finds the value of a tensor. Graph inputs (tokens, positions) are left out: two runs that are compared have the same.
    ``weights`` are values that come from the model file. ``inside`` are the stages that a value is, or stands for. ``causal``: no
    position depends on later ones, as far as is known.
    """

    operands: dict[Value, list[Value]] = field(default_factory=dict)
    readers: dict[Value, list[Value]] = field(default_factory=dict)
    value_of: dict[Place, Value] = field(default_factory=dict)
    weights: set[Value] = field(default_factory=set)
    inside: dict[Value, tuple[Place, ...]] = field(default_factory=dict)
    causal: bool = True

    def add(self, value: Value, operands: Iterable[Value], key: Place | None = None) -> None:
        """Add a value, after its operands: so the order of ``operands`` is a topological one."""
        self.operands.setdefault(value, [])
        self.readers.setdefault(value, [])
        for operand in operands:
            self._connect(operand, value)
        if key is not None:
            self.value_of[key] = value
            self.inside[value] = (key,)

    def link(self, source: Place, target: Place) -> None:
        """Add an edge between two tensors, the first of which was added first, if both are there."""
        if source in self.value_of and target in self.value_of:
            self._connect(self.value_of[source], self.value_of[target])

    def _connect(self, operand: Value, value: Value) -> None:
        if operand in self.operands and operand not in self.operands[value]:
            self.operands[value].append(operand)
            self.readers[operand].append(value)

    def behind(self, sources: Container[Value]) -> set[Value]:
        """Every value with one of ``sources`` among its proper ancestors."""
        found: set[Value] = set()
        for value, operands in self.operands.items():
            if any(operand in sources or operand in found for operand in operands):
                found.add(value)
        return found


def find_dependencies(a: Trace, b: Trace, keys: Iterable[Place]) -> Dependencies:
    """The dependencies among the tensors ``keys``: of A's graph or B's, whichever knows more, or else of the stage table.

    A graph has to know all that can be compared, which is what both sides recorded. What one side alone recorded and
    the graph does not know stands by itself.
    """
    keys = list(keys)
    compared = [key for key in keys if key in a and key in b] or keys
    steps = sorted({step for step, _, _ in keys})
    best: Dependencies | None = None
    for trace in (a, b):
        graph = trace.graph()
        found = None if graph is None else from_graph(graph, steps)
        if found is None or any(key not in found.value_of for key in compared):
            continue
        if best is None or _known(found, keys) > _known(best, keys):
            best = found
        if _known(best, keys) == len(keys):
            break
    return from_stage_table(keys) if best is None else _with_all(best, keys)


def _known(found: Dependencies, keys: Iterable[Place]) -> int:
    return sum(key in found.value_of for key in keys)


def _with_all(found: Dependencies, keys: Iterable[Place]) -> Dependencies:
    """``found``, with those of ``keys`` that it does not know as values of nothing."""
    for key in keys:
        if key not in found.value_of:
            found.add((key.step, _name(key.layer, key.stage)), (), key)
    return found


def from_graph(graph: Graph, steps: Iterable[int] = (0,)) -> Dependencies:
    """The dependencies of ``graph``, run once per step."""
    result = Dependencies(causal=all(is_causal(node.attrs) for node in graph))
    nodes = [(node, graph.operand_names(node.name), has_state(node)) for node in graph if not (is_tap(node) or is_input(node))]
    previous: int | None = None
    for step in steps:
        for node, names, keeps in nodes:
            value = (step, node.name)
            key = Place(step, node.layer, node.stage) if node.stage is not None else None
            operands = [(step, name) for name in names]
            if previous is not None and keeps:  # it holds the earlier positions too
                operands.append((previous, node.name))
            result.add(value, operands, key)
        result.weights.update((step, node.name) for node, _, _ in nodes if is_weight(node))
        if previous is not None:
            result.link(Place(previous, None, LOGITS), Place(step, 0, EMBEDDING))
        previous = step
    return result


def from_stage_table(keys: Iterable[Place]) -> Dependencies:
    """The dependencies of any model of the stage table, as far as the tensors ``keys`` show which stages it has.

    Layers between two recorded ones stand as one value, ``layers 3..6``.
    """
    keys = list(keys)
    layers = sorted({layer for _, layer, _ in keys if layer is not None})
    absent = _absent({stage for _, _, stage in keys})
    result = Dependencies()
    earlier: _Step | None = None
    for step in sorted({step for step, _, _ in keys}):
        now = _Step(step)
        _add_step(result, now, layers, absent, earlier)
        earlier = now
    return _with_all(result, keys)


@dataclass
class _Step:
    """A step, and what each stage of each layer is in it.

    That is one value, or where a model does without the stage, the values that it would be computed from.
    """

    number: int
    values: dict[tuple[int | None, str], tuple[Value, ...]] = field(default_factory=dict)


def _absent(seen: Container[str]) -> set[str]:
    """The stages that a model does not have of which ``seen`` were recorded."""
    absent = {name for name, stage in STAGE_BY_NAME.items() if stage.optional and name not in seen}
    # A layer has one kind of FFN unless both kinds were seen (dense layers before the first experts).
    networks = {network: {name for name, stage in STAGE_BY_NAME.items() if stage.network == network} for network in ("experts", "dense")}
    unseen = [names for names in networks.values() if not any(name in seen for name in names)]
    return absent | (unseen[0] if unseen else set())


def _in_order(stages: Iterable[Stage]) -> list[Stage]:
    """Stages after what they read; ties in the order of the table."""
    given = list(stages)
    index = {stage.name: number for number, stage in enumerate(given)}
    unread = [{read for read in stage.reads if read in index} for stage in given]
    ready = [number for number, reads in enumerate(unread) if not reads]
    found = []
    while ready:
        done = given[heapq.heappop(ready)]
        found.append(done)
        for number, reads in enumerate(unread):
            if done.name in reads:
                reads.remove(done.name)
                if not reads:
                    heapq.heappush(ready, number)
    return found


def _name(layer: int | None, stage: str) -> str:
    return stage if layer is None else f"layer{layer}.{stage}"


def _add_step(result: Dependencies, now: _Step, layers: list[int], absent: set[str], earlier: _Step | None) -> None:
    # A model without latent attention has none of its stages, nor what they would be computed from in their place. So one without
    # recurrent layers.
    has = {stage.only_with for name, stage in STAGE_BY_NAME.items() if name not in absent} | {None}
    of_layer = _in_order(
        stage for stage in STAGE_BY_NAME.values() if stage.per_layer and not stage.first_layer_only and stage.only_with in has
    )
    of_model = _in_order(stage for stage in STAGE_BY_NAME.values() if not stage.per_layer)
    hidden: tuple[Value, ...] = ()
    above, end = 0, end_of_layer(STAGE_BY_NAME.keys() - absent)
    if layers and layers[0] == 0:
        hidden = ((now.number, _name(0, EMBEDDING)),)
        result.add(hidden[0], (), Place(now.number, 0, EMBEDDING))
        for stage in OF_EMBEDDING:
            if stage not in absent:
                made = (now.number, _name(0, stage))
                result.add(made, hidden, Place(now.number, 0, stage))
                hidden = (made,)
    now.values.update(((layer, EMBEDDING), hidden) for layer in layers)
    for layer in layers:
        if layer > above:
            gap = (now.number, f"layers {above}..{layer}")
            result.add(gap, hidden)
            result.inside[gap] = tuple(Place(now.number, unseen, end) for unseen in range(above, layer))
            hidden = (gap,)
        _add_stages(result, now, layer, of_layer, hidden, absent, earlier)
        hidden = now.values[layer, END_OF_LAYER]
        above = layer + 1
    _add_stages(result, now, None, of_model, hidden, absent, earlier)
    if earlier is not None:
        result.link(Place(earlier.number, None, LOGITS), Place(now.number, 0, EMBEDDING))


def _add_stages(
    result: Dependencies,
    now: _Step,
    layer: int | None,
    stages: Iterable[Stage],
    hidden: tuple[Value, ...],
    absent: set[str],
    earlier: _Step | None,
) -> None:
    """Add the stages of a layer, or those of the whole model, which are given ``hidden``."""
    now.values[layer, HIDDEN] = hidden
    for stage in stages:
        operands = tuple(value for name in stage.reads for value in now.values.get((layer, name), ()))
        now.values[layer, stage.name] = operands
        if stage.name in absent:
            continue
        if earlier is not None:
            operands += tuple(value for name in stage.recalls for value in earlier.values.get((layer, name), ()))
        value = (now.number, _name(layer, stage.name))
        result.add(value, operands, Place(now.number, layer, stage.name))
        now.values[layer, stage.name] = (value,)
