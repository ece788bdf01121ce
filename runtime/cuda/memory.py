"""How much memory of a GPU graphs need, known before anything is allocated there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from aprgraph.graph.calling_convention import STATISTICS_CHUNK, cache_nodes, weight_nbytes
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import weights_of
from aprgraph.runtime.tvm_session import CHUNKS_AT_ONCE

_ITEMSIZE = 4
#: TVM's allocator rounds up to this, and hands freed memory on to tensors of the same size only.
_PAGE = 4096


def weights_nbytes(graphs: Iterable[Graph]) -> int:
    """Bytes of the weights that ``graphs`` read, each once."""
    return sum({node.name: weight_nbytes(node) for graph in graphs for node in weights_of(graph)}.values())


def caches_nbytes(graphs: Iterable[Graph], capacity: int) -> int:
    """Bytes of the KV caches of ``graphs`` for ``capacity`` positions."""
    return sum({node.name: capacity * int(node.type.dims[1]) * _ITEMSIZE for graph in graphs for node in cache_nodes(graph)}.values())


def values_nbytes(graph: Graph, n: int, t: int, *, single_pass: bool) -> int:
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
        if node.op == "tap":
            tapped.append(sizes[names[0]])
        elif node.op not in ("input", "weight") and not (node.op == "cache" and not single_pass):
            # In a single pass a cache is its operand; counted twice, which is at most what the copies hold.
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
