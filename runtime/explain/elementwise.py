"""Mistakes of what works on each element alone: activations, sums of the residual stream, products with gates, scales and caps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import OPS, Array
from aprgraph.graph.ops.aliases import Attrs
from aprgraph.graph.ops.formula import Elementwise
from aprgraph.runtime.explain.alternative import SOLVED, Alternative, Compute, explains, goes_on, with_attrs, with_operand
from aprgraph.runtime.explain.half_precision import bfloat16
from aprgraph.runtime.explain.site import Site

_ACTIVATIONS = ("silu", "gelu", "relu_squared", "sigmoid", "softplus", "tanh")
_NAMES = {
    "silu": "SiLU", "gelu": "GELU (by tanh)", "relu_squared": "the square of ReLU", "sigmoid": "a sigmoid", "softplus": "softplus",
    "tanh": "tanh",
}  # fmt: skip
_ERF = np.vectorize(math.erf, otypes=[float])
#: Numbers that agree to this, relative to their size, are said to be the same.
_SAME = 1e-3


def _gelu_by_erf(x: Array) -> Array:
    return np.asarray(x / 2 * (1 + _ERF(x / math.sqrt(2))))


def _of_first(reference: Callable[[Sequence[Array], Attrs], Array], operands: Sequence[Array]) -> Array:
    return reference(operands[:1], {})


def _others() -> Iterator[tuple[str, str, Compute]]:
    for op in _ACTIVATIONS:
        formula = OPS[op]
        assert isinstance(formula, Elementwise)
        assert formula.reference is not None
        yield op, _NAMES[op], partial(_of_first, formula.reference)
    yield "gelu-erf", "GELU by erf", lambda operands: _gelu_by_erf(np.asarray(operands[0]))
    yield "quick-gelu", "x · sigmoid(1.702 x)", lambda operands: np.asarray(operands[0] / (1 + np.exp(-1.702 * operands[0])))
    yield "relu", "ReLU", lambda operands: np.maximum(operands[0], 0)


@explains(*_ACTIVATIONS, "xielu")
def other_activation(site: Site) -> Iterator[Alternative]:
    """Another activation."""
    yield Alternative("no-activation", f"{site.called} has no activation", goes_on(0))
    for op, words, compute in _others():
        if op != site.node.op:
            yield Alternative("activation", f"{site.called} is {words}", compute)


@explains("xielu", "clamped_swiglu")
def other_numbers(site: Site) -> Iterator[Alternative]:
    """Its numbers are left at 1, without limit, or exchanged."""
    numbers = {name: float(value) for name, value in site.node.attrs.items() if isinstance(value, (int, float))}
    names = list(numbers)
    for first, name in enumerate(names):
        for other in names[first + 1 :]:
            words = f"{name} and {other} of {site.called} are exchanged"
            exchanged = {name: numbers[other], other: numbers[name]}
            yield Alternative("numbers", words, with_attrs(site, **exchanged))
        for value, words in ((1.0, "is taken for 1"), (1e30, "is left out"), (0.0, "is taken for 0")):
            if numbers[name] != value:
                yield Alternative(
                    "numbers", f"{name} of {site.called}, {numbers[name]:g}, {words}",
                    with_attrs(site, **{name: value}),
                )  # fmt: skip


@explains("clamped_swiglu")
def plain_product(site: Site) -> Iterator[Alternative]:
    """The 1 is not added to up, the product is a plain gated one, or the gate is cut off on both sides, or up on one."""
    gate, up = site.label(0), site.label(1)
    limit, alpha = (site.node.attr_float(name) for name in ("limit", "alpha"))

    def activated(x: Array, factor: float) -> Array:
        return np.asarray(x / (1 + np.exp(-factor * x)))

    def product(cut_gate: tuple[float, float], cut_up: tuple[float, float], factor: float, added: float) -> Compute:
        return lambda operands: activated(np.clip(operands[0], *cut_gate), factor) * (np.clip(operands[1], *cut_up) + added)

    above, both, none = (-np.inf, limit), (-limit, limit), (-np.inf, np.inf)
    yield Alternative("up-plus-one", f"no 1 is added to {up}", product(above, both, alpha, 0.0))
    yield Alternative("plain-product", f"{site.called} is silu({gate}) * {up}, without limits and numbers", product(none, none, 1.0, 0.0))
    yield Alternative("limits", f"{gate} is cut off below too, at {-limit:g}", product(both, both, alpha, 1.0))
    yield Alternative("limits", f"{up} is not cut off below", product(above, above, alpha, 1.0))


@explains("add")
def sums(site: Site) -> Iterator[Alternative]:
    """One of the two is left out, or counts by another factor."""
    for index in (0, 1):
        yield Alternative("not-added", f"{site.called} is without {site.label(index)}", goes_on(1 - index))
    if site.recorded is None:
        return
    a, b = (np.asarray(operand).reshape(-1) for operand in site.operands)
    factors = np.linalg.lstsq(np.stack([a, b], axis=1), site.recorded.reshape(-1), rcond=None)[0]
    if site.fits((factors[0] * a + factors[1] * b).reshape(site.due.shape)):
        scaled = [index for index in (0, 1) if abs(factors[index] - 1) > _SAME]
        if len(scaled) == 1:
            index = scaled[0]
            words = f"{site.called} adds {factors[index]:.6g} times {site.label(index)}"
            yield Alternative("scaled-term", words, lambda operands: factors[0] * operands[0] + factors[1] * operands[1], SOLVED)


@explains("mul", "scale_rows", "scale_columns")
def products(site: Site) -> Iterator[Alternative]:
    """A factor is left out, has 1 added to it, or is added."""
    if site.node.op == "mul" and site.recorded is not None:
        for index in (0, 1):
            one_more = with_operand(site, index, partial(np.add, 1.0))
            if site.fits(one_more(site.operands)):
                yield Alternative("factor-and-one", f"{site.called} multiplies by {site.label(index)} + 1", one_more)
        if np.shape(site.operands[0]) == np.shape(site.operands[1]) and site.fits(_sum(site.operands)):
            yield Alternative(
                "sum-for-product", f"{site.called} adds {site.label(0)} and {site.label(1)}, and does not multiply them", _sum
            )
    for index in range(len(site.operands)):
        if np.shape(site.operands[1 - index]) == site.due.shape:
            yield Alternative("not-multiplied", f"{site.called} is without {site.label(index)}", goes_on(1 - index))


@explains("mul", *_ACTIVATIONS)
def activation_elsewhere(site: Site) -> Iterator[Alternative]:
    """Of a gated product up goes through the activation in place of the gate, or the product does."""
    graph = site.around.graph
    product = site.node if site.node.op == "mul" else next((node for node in graph.users(site.node.name) if node.op == "mul"), None)
    names = () if product is None else graph.operand_names(product.name)
    is_product = site.node.op == "mul"
    if (site.recorded is None and not is_product) or len(names) != 2 or graph[names[0]].op not in _ACTIVATIONS:
        return
    source = graph.operand_names(names[0])[0]
    gate, up = site.value(source), site.value(names[1])
    reference = OPS[graph[names[0]].op].reference
    if gate is None or up is None or gate.shape != up.shape or up.shape != site.due.shape or reference is None:
        return
    activated = reference([up], graph[names[0]].attrs)
    of_up = f"the activation is that of {site.label_of(graph[names[1]])}, and {site.label_of(graph[source])} has none"
    ways = [(of_up, gate * activated if is_product else activated)]
    if is_product:
        of_product = f"the activation is that of the product, and not of {site.label_of(graph[source])} alone"
        ways.append((of_product, reference([gate * up], graph[names[0]].attrs)))
    for words, value in ways:
        if site.fits(value):
            yield Alternative("activation-place", words, partial(_given, value), shows_in=() if is_product else ("mul",))


def _given(value: Array, _operands: Sequence[Array]) -> Array:
    return value


def _sum(operands: Sequence[Array]) -> Array:
    return np.asarray(operands[0] + operands[1])


@explains("scale", "embed", "router_weights")
def other_factor(site: Site) -> Iterator[Alternative]:
    """The factor is left out, turned over, or rounded to bfloat16."""
    name = "factor" if "factor" in site.node.attrs else "scale"
    own = site.node.attr_float(name, 1.0)
    if own == 1.0:
        return
    for value, words in (
        (1.0, "is left out"),
        (float(bfloat16(np.array(own))), "is rounded to bfloat16"),
        (1 / own, "divides where it should multiply"),
    ):
        if value != own:
            yield Alternative(
                "scale", f"the factor of {site.called}, {own:.6g}, {words}",
                with_attrs(site, **{name: value}),
            )  # fmt: skip


@explains("clamp")
def other_bound(site: Site) -> Iterator[Alternative]:
    """No bound."""
    yield Alternative("bound", f"{site.called} is not cut off at {site.node.attr_float('bound'):g}", goes_on(0))


@explains("soft_cap")
def other_cap(site: Site) -> Iterator[Alternative]:
    """No cap, or one on the way there alone, back alone, as a plain limit, or twice."""
    yield Alternative("cap", f"{site.called} is not capped", goes_on(0))
    yield from caps(site, lambda operands: np.asarray(operands[0]), site.node.attr_float("cap"))


def caps(site: Site, before: Compute, cap: float) -> Iterator[Alternative]:
    """Other ways to cap at ``cap`` what comes ``before`` it."""
    if site.recorded is None:
        return
    ways: tuple[tuple[str, Callable[[Array], Array]], ...] = (
        (f"goes through {cap:g} · tanh(x), without the division by {cap:g}", lambda x: cap * np.tanh(x)),
        (f"goes through tanh(x / {cap:g}), and is not multiplied by {cap:g}", lambda x: np.tanh(x / cap)),
        (f"is cut off at {cap:g}, and not by tanh", lambda x: np.clip(x, -cap, cap)),
        (f"is capped twice at {cap:g}", lambda x: cap * np.tanh(np.tanh(x / cap))),
    )
    for words, change in ways:
        one = Alternative("cap", f"{site.called} {words}", partial(_changed, before, change))
        if site.fits(one.compute(site.operands)):
            yield one


def _changed(before: Compute, change: Callable[[Array], Array], operands: Sequence[Array]) -> Array:
    return change(before(operands))
