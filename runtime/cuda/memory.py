"""How much memory of a GPU graphs need, known before anything is allocated there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from aprgraph.graph.calling_convention import STATISTICS_CHUNK, weight_nbytes
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import is_computed, is_own_state, is_tap, state_type, states_of, weights_of
from aprgraph.runtime.tvm_session import CHUNKS_AT_ONCE

_ITEMSIZE = 4
#: TVM's allocator rounds up to this, and hands freed memory on to tensors of the same size only.
_PAGE = 4096


def weights_nbytes(graphs: Iterable[Graph]) -> int:
    """Bytes of the weights that ``graphs`` read, each once."""
    return sum({node.name: weight_nbytes(node) for graph in graphs for node in weights_of(graph)}.values())


def states_nbytes(graphs: Iterable[Graph], capacity: int) -> int:
    """Bytes of the states of ``graphs``, such as KV caches, for ``capacity`` positions."""
    types = {node.name: state_type(graph, node) for graph in graphs for node in states_of(graph)}
    return sum(math.prod(kind.bind(t=capacity)) * _ITEMSIZE for kind in types.values())


def values_nbytes(graph: Graph, n: int, t: int) -> int:
    """Bytes that the computed values of one pass take at their peak: of each size as many as there are at once.

    Two tapped values more may be held, on their way down.
    """
    left = {node.name: len(graph.users(node.name)) + (node.name in graph.outputs) for node in graph}
    live: Counter[int] = Counter()
    most: Counter[int] = Counter()
    sizes: dict[str, int] = {}
    tapped: list[int] = [0, 0]
    for node in graph:
        names = graph.operand_names(node.name)
        if is_tap(node):
            tapped.append(sizes[names[0]])
        elif is_computed(node) and not is_own_state(node):
            size = -(-math.prod(node.type.bind(n=n, t=t)) * _ITEMSIZE // _PAGE) * _PAGE
            sizes[node.name] = size
            live[size] += 1
            most[size] = max(most[size], live[size])
        for name in set(names):
            left[name] -= 1
            if not left[name] and name in sizes:
                live[sizes[name]] -= 1
    return sum(size * count for size, count in most.items()) + sum(sorted(tapped)[-2:])


def summaries_nbytes(taps: Iterable[Node], n: int, t: int) -> int:
    """Bytes that go up for the statistics of tensors whose parts came down in several passes: of ``n`` positions in all."""
    largest = max((math.prod(tap.type.bind(n=n, t=t)) for tap in taps if "n" in tap.type.dims), default=0)
    return min(largest, CHUNKS_AT_ONCE * STATISTICS_CHUNK) * _ITEMSIZE
