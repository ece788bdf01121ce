"""fuse-rounding: a rounding and the matrix product that it is for in one op, for kernels that multiply whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Attr, Graph, Node, renamed
from aprgraph.graph.ops import is_weight
from aprgraph.graph.ops.linear import LINEAR
from aprgraph.graph.ops.rounded_linear import ROUNDED_LINEAR, multiplies
from aprgraph.graph.ops.rounding import ROUND, ROUND_SUM_ERRORS
from aprgraph.graph.roundings import ROUNDINGS


@dataclass(frozen=True)
class _Product:
    """A product of a rounded x: what was rounded, by which scheme, and the weights."""

    x: str
    scheme: str
    weights: tuple[str, ...]


@dataclass(frozen=True)
class FuseRounding:
    """Replaces `round` -> `linear` by `rounded_linear`, with the product of what kept sums are off that is added to it, where the
    weights' blocks are whole numbers.

    The order of sums is another one, so that it is done under every plan or none: what it takes away has no stage, and is never tapped.
    """

    name: ClassVar[str] = "fuse-rounding"

    def __call__(self, graph: Graph) -> Graph:
        fused = {node.name: product for node in graph if (product := _product_of(graph, node)) is not None}
        if not fused:
            return graph
        gone = _unread(graph, fused)
        result = Graph(graph.name, graph.attrs)
        for node in graph:
            if node.name in fused:
                product = fused[node.name]
                attrs: dict[str, Attr] = {"scheme": product.scheme}
                result.add(renamed(node, op=ROUNDED_LINEAR.name, attrs=attrs), [product.x, *product.weights])
            elif node.name not in gone:
                result.add(node, graph.operand_names(node.name))
        result.outputs = graph.outputs
        return result


def _product_of(graph: Graph, node: Node) -> _Product | None:
    """What ``node`` computes, if that can be one op."""
    if node.op == LINEAR.name:
        found = _linear_of(graph, node, ROUND.name)
        return found if found is not None and ROUNDINGS[found.scheme].sum_errors is None and _fits(graph, found) else None
    if node.op != "add":
        return None
    values, errors = graph.operands(node.name)
    product, of_sums = _linear_of(graph, values, ROUND.name), _linear_of(graph, errors, ROUND_SUM_ERRORS.name)
    if product is None or of_sums is None or (product.x, product.scheme) != (of_sums.x, of_sums.scheme):
        return None
    are_private = all(len(graph.users(part.name)) == 1 and part.name not in graph.outputs for part in (values, errors))
    tensors = [[graph[name].attrs["tensor"] for name in part.weights] for part in (product, of_sums)]
    return product if are_private and tensors[0] == tensors[1] and _fits(graph, product) else None


def _linear_of(graph: Graph, node: Node, rounding: str) -> _Product | None:
    """The product of weights with what the op ``rounding`` makes of some x."""
    if node.op != LINEAR.name:
        return None
    rounded, *weights = graph.operands(node.name)
    if rounded.op != rounding or not all(map(is_weight, weights)):
        return None
    (x,) = graph.operand_names(rounded.name)
    return _Product(x, rounded.attr_str("scheme"), tuple(weight.name for weight in weights))


def _fits(graph: Graph, product: _Product) -> bool:
    return all(multiplies(graph[name].type, product.scheme) for name in product.weights)


def _unread(graph: Graph, fused: dict[str, _Product]) -> set[str]:
    """The nodes without a stage that nothing reads any more."""
    read: dict[str, int] = {}

    def count(names: Sequence[str]) -> None:
        for name in names:
            read[name] = read.get(name, 0) + 1

    gone: set[str] = set()
    for node in graph:
        product = fused.get(node.name)
        count(graph.operand_names(node.name) if product is None else [product.x, *product.weights])
    was_read = {name for node in graph for name in graph.operand_names(node.name)}
    for node in reversed(list(graph)):
        if node.name in was_read and not read.get(node.name) and node.name not in graph.outputs:
            gone.add(node.name)
            for name in graph.operand_names(node.name):
                read[name] -= 1
    return gone
