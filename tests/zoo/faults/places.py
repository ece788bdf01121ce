"""Where faults are put: at one node, or one tensor, of the first, the middle and the last layer, or once in the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from aprgraph.graph.ir import Graph
from aprgraph.runtime.place import Place
from tests.zoo.planting import Misreading, Patch, Plant, Site
from tests.zoo.subjects import Subject

Sites = Callable[[Subject], Sequence[Site]]
#: Says of a subject and a layer whether a fault can be there.
Condition = Callable[[Subject, int], bool]
_ALWAYS = range(1 << 20)
#: The ends of the names of nodes that multiply by the weight of a stage: where a bias is added, and where none is.
MULTIPLICATION = ("_matmul", "")


def anywhere(_subject: Subject, _layer: int) -> bool:
    """Every layer."""
    return True


def having(*names: str) -> Condition:
    """Layers that have all nodes ``names``, named without it."""
    return lambda subject, layer: all(f"layer{layer}.{name}" in subject.graph for name in names)


def each_layer(
    patches: Mapping[str, Patch], *stages: str, when: Condition = anywhere, steps: range = range(1), wrong_steps: range | None = None
) -> Sites:
    """Nodes of one layer, named without it, compute ``patches``; that layer's ``stages`` are wrong for it.

    In ``steps``; where what they leave in a cache is wrong in later steps too, in ``wrong_steps``.
    """

    def sites(subject: Subject) -> list[Site]:
        found = []
        for layer in subject.layers:
            nodes = {f"layer{layer}.{name}": patch for name, patch in patches.items()}
            if all(name in subject.graph for name in nodes) and when(subject, layer):
                wrong = keys(range(subject.steps), layer, stages, steps if wrong_steps is None else wrong_steps)
                found.append(Site(layer, Plant(nodes, steps=steps if subject.steps > 1 else _ALWAYS), wrong))
        return found

    return sites


def each_layer_weight(endings: Sequence[str], misreading: Misreading, *stages: str, when: Condition = anywhere) -> Sites:
    """The tensors blk.<layer>.<ending>, all of which the model must have, are misread."""

    def sites(subject: Subject) -> list[Site]:
        found = []
        for layer in subject.layers:
            tensors = {f"blk.{layer}.{ending}": misreading for ending in endings}
            if all(name in subject.graph for name in tensors) and when(subject, layer):
                # The gate of attention comes with q, where it has no weight of its own.
                with_gate = f"layer{layer}.attn_gate" in subject.graph and f"blk.{layer}.attn_gate.weight" not in subject.graph
                gate = ("attn_gate",) if "attn_q.weight" in endings and with_gate else ()
                found.append(Site(layer, Plant(weights=tensors), keys(range(subject.steps), layer, (*stages, *gate))))
        return found

    return sites


def once(patches: Mapping[str, Patch], *stages: str, steps: range = range(1)) -> Sites:
    """Nodes by their whole names; the ``stages`` of every layer that is computed from one of them directly are wrong.

    Of ``patches`` those count whose nodes the model has.
    """

    def sites(subject: Subject) -> list[Site]:
        nodes = {name: patch for name, patch in patches.items() if name in subject.graph}
        if not nodes:
            return []
        wrong = {
            (step, node.layer, node.stage)
            for node in subject.graph.staged()
            if node.stage in stages and (node.name in nodes or nodes.keys() & _untapped_inputs(subject.graph, node.name))
            for step in range(subject.steps)
            if step in steps
        }
        return [Site(None, Plant(nodes, steps=steps if subject.steps > 1 else _ALWAYS), frozenset(wrong))]

    return sites


def where(condition: Callable[[Subject], bool], sites: Sites) -> Sites:
    """``sites`` of the models that the condition holds of."""
    return lambda subject: sites(subject) if condition(subject) else []


def either(*choices: Sites) -> Sites:
    """The first of several that a model has."""

    def sites(subject: Subject) -> Sequence[Site]:
        return next((found for choice in choices if (found := choice(subject))), [])

    return sites


def keys(all_steps: range, layer: int | None, stages: Sequence[str], steps: range = _ALWAYS) -> frozenset[Place]:
    """The keys of ``stages`` of a layer in those of ``all_steps`` that are in ``steps``."""
    return frozenset((step, layer, stage) for step in all_steps if step in steps for stage in stages)


def _untapped_inputs(graph: Graph, name: str) -> set[str]:
    """The nodes without a stage that ``name`` is computed from, with nothing but such nodes between."""
    found: set[str] = set()
    waiting = list(graph.operand_names(name))
    while waiting:
        operand = graph[waiting.pop()]
        if operand.stage is None and operand.name not in found:
            found.add(operand.name)
            waiting.extend(graph.operand_names(operand.name))
    return found
