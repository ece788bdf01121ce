"""What a gate multiplies is normalised before it, as in gated delta nets, where it should be behind it, as in Mamba 2, or the reverse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array
from aprgraph.runtime.explain.alternative import Alternative, explains
from aprgraph.runtime.explain.site import Site, compute

_NORMS = ("rms_norm", "layer_norm")


@explains("mul", *_NORMS)
def norm_and_gate(site: Site) -> Iterator[Alternative]:
    """The norm comes behind the gate where it should be before it, or the reverse."""
    if site.recorded is None:
        return
    place = "before it" if site.node.op == "mul" else "behind it"
    words = f"the norm comes {'behind' if site.node.op == 'mul' else 'before'} the gate, and not {place}"
    for value in _behind(site) if site.node.op == "mul" else _before(site):
        if site.fits(value(site.operands)):
            yield Alternative("norm-gate-order", words, value)
            return


def _behind(site: Site) -> Iterator[Callable[[Sequence[Array]], Array]]:
    """The norm of the product, where the product is of a norm."""
    for index, name in enumerate(site.operand_names):
        norm = site.around.graph[name]
        x = site.known(site.around.graph.operand_names(name)[0]) if norm.op in _NORMS else None
        if x is not None:
            yield partial(_norm_of_product, site, norm, x, 1 - index)


def _before(site: Site) -> Iterator[Callable[[Sequence[Array]], Array]]:
    """The product of a norm, where the norm is of a product."""
    product = site.around.graph[site.operand_names[0]]
    values = [site.known(name) for name in site.around.graph.operand_names(product.name)] if product.op == "mul" else []
    known = [value for value in values if value is not None]
    if len(known) == len(values) > 1:
        for x, gate in (known, known[::-1]):
            yield partial(_product_of_norm, site, x, gate)


def _norm_of_product(site: Site, norm: Node, x: Array, gate: int, operands: Sequence[Array]) -> Array:
    weights = [site.around.read(site.around.graph[name], norm) for name in site.around.graph.operand_names(norm.name)[1:]]
    return compute(norm, [x * operands[gate], *weights], site.around)


def _product_of_norm(site: Site, x: Array, gate: Array, operands: Sequence[Array]) -> Array:
    return site.compute([x, *operands[1:]]) * gate
