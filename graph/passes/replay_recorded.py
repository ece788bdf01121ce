"""replay-recorded: read recorded tensors in place of computing them, and compute only those to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import Role, is_input, traits_of

#: In front of the name of the node that a `recorded` node stands for.
PREFIX = "recorded."


@dataclass(frozen=True)
class ReplayRecorded:
    """Puts a `recorded` node beside every node of ``sources``, which all its users then read.

    Outputs are the nodes of ``targets``, and the caches of ``kept``, as far as they can be computed: from recorded nodes,
    weights, and the inputs ``given``. ``lost`` are caches whose earlier rows are not known. So every output is computed from
    the nearest recorded tensors before it, by the smallest graph that does so once what it does not need is pruned.
    """

    sources: frozenset[str]
    targets: frozenset[str]
    given: frozenset[str] = frozenset({"tokens", "positions"})
    kept: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    name: ClassVar[str] = "replay-recorded"

    def __call__(self, graph: Graph) -> Graph:
        result = Graph(graph.name, graph.attrs)
        stands_for: dict[str, str] = {}
        outputs = []
        for node in graph:
            operands = graph.operand_names(node.name)
            known = node.name in self.given if is_input(node) else node.name not in self.lost and all(o in stands_for for o in operands)
            if known:
                result.add(node, [stands_for[operand] for operand in operands])
                stands_for[node.name] = node.name
                if node.name in self.targets | self.kept:
                    outputs.append(node.name)
            if node.name in self.sources:
                stands_for[node.name] = result.add(_recorded(node)).name
        result.outputs = tuple(outputs)
        return result


def _recorded(node: Node) -> Node:
    return Node(f"{PREFIX}{node.name}", "recorded", node.type, {"type": str(node.type)}, None, node.layer)


@dataclass(frozen=True)
class Origins:
    """What one value of a replay is computed from.

    ``sources`` are names of nodes that were recorded, ``region`` of those that are computed, its own last, and ``weights``
    those that they read, whole or a part; all in execution order.
    """

    sources: tuple[str, ...]
    region: tuple[str, ...]
    weights: tuple[str, ...]


def find_origins(replay: Graph, name: str, order: Mapping[str, int]) -> Origins:
    """The origins of one output of a graph that ReplayRecorded made; ``order`` is each node's place in it."""
    found: dict[Role, list[str]] = {role: [] for role in Role}
    for needed in sorted(replay.ancestors([name]), key=order.__getitem__):
        role = traits_of(replay[needed]).role
        found[role].append(replay[needed].attr_str("tensor") if role is Role.WEIGHT else needed)
    sources = tuple(source.removeprefix(PREFIX) for source in found[Role.RECORDED])
    return Origins(sources, tuple(found[Role.COMPUTED]), tuple(dict.fromkeys(found[Role.WEIGHT])))
