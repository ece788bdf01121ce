"""What has to be named: which recorded tensors a plant makes wrong, and which of those come first.

Found by walking the graph, and compared with what each site declares, so that neither is believed alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import has_state, is_computed, is_input, is_tap, is_weight, taps_of
from aprgraph.runtime.place import Place
from tests.zoo.planting import Plant
from tests.zoo.subjects import Subject

#: A node's value in one step.
_Value = tuple[int, str]


def guilty(subject: Subject, plant: Plant) -> frozenset[str]:
    """The nodes that compute something wrong: those that are planted, and those that read a planted weight."""
    return frozenset(plant.nodes) | {user.name for tensor in plant.weights for user in subject.graph.users(tensor) if not is_tap(user)}


def wrong_tensors(subject: Subject, plant: Plant, tapped: Graph) -> frozenset[Place]:
    """Of what ``tapped`` records: the tensors that lie behind a guilty value with no recorded tensor between."""
    found: set[Place] = set()
    tainted: set[_Value] = set()
    culprits = guilty(subject, plant)
    recorded = {tapped.operand_names(tap.name)[0] for tap in taps_of(tapped)}
    for step in range(subject.steps):
        for node in tapped:
            if not is_computed(node):
                continue
            bad = node.name in culprits and (step in plant.steps or bool(plant.weights))
            bad = bad or any(value in tainted for value in _operands(tapped, step, node.name))
            if bad and node.name in recorded:
                assert node.stage is not None
                found.add((step, node.layer, node.stage))
            elif bad:
                tainted.add((step, node.name))
    return frozenset(found)


def first_of(subject: Subject, keys: Iterable[Place]) -> frozenset[Place]:
    """Those of ``keys`` that are not computed from others of them."""
    keys = frozenset(keys)
    behind: set[_Value] = set()
    found: set[Place] = set()
    graph = subject.graph
    for step in range(subject.steps):
        for node in graph:
            if is_tap(node) or is_weight(node):
                continue
            is_behind = any(value in behind for value in _operands(graph, step, node.name))
            # A later step runs on the token that the logits of the step before chose.
            is_behind = is_behind or (is_input(node) and (step - 1, "lm_head") in behind)
            key = (step, node.layer, node.stage)
            if node.stage is not None and key in keys and not is_behind:
                found.add((step, node.layer, node.stage))
            if is_behind or (node.stage is not None and key in keys):
                behind.add((step, node.name))
    return frozenset(found)


def _operands(graph: Graph, step: int, name: str) -> list[_Value]:
    """What a value is computed from; one with a state, from what that was a step before as well."""
    operands = [(step, operand) for operand in graph.operand_names(name)]
    return [*operands, (step - 1, name)] if has_state(graph[name]) else operands
