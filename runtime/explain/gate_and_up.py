"""Rows of gate and up that lie in turn, and are taken as if those of gate came first, or the reverse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array, traits_of
from aprgraph.runtime.explain.alternative import GENERAL, Alternative, Compute, explains, with_value
from aprgraph.runtime.explain.one_weight import products_of
from aprgraph.runtime.explain.site import Site

_NAME = "gate-up-in-turn"
_READ_IN_TURN = "rows of gate and up are read as if they lay in turn, where all of gate come first"
_LIE_IN_TURN = "rows of gate and up lie in turn, and are read as if all of gate came first"
#: What tensors of the two are called.
_GATE, _UP = "ffn_gate", "ffn_up"


def _sources(rows: int, *, is_gate: bool) -> Iterator[tuple[str, Array]]:
    """By words, which rows of both together gate, or up, has in place of its own: gate lies below ``rows``, up behind."""
    yield _READ_IN_TURN, np.arange(0 if is_gate else 1, 2 * rows, 2)
    lying = np.arange(2 * rows).reshape(2, rows).T.reshape(-1)
    yield _LIE_IN_TURN, lying[:rows] if is_gate else lying[rows:]


@explains("columns")
def columns_in_turn(site: Site) -> Iterator[Alternative]:
    """Of a product that holds gate and up, every other column is taken, or the columns lie so and are not."""
    start, stop, both = site.node.attr_int("start"), site.node.attr_int("stop"), site.operands[0].shape[1]
    if site.node.stage not in (_GATE, _UP) or stop - start != both // 2 or both % 2 or start not in (0, both // 2):
        return
    for words, order in _sources(both // 2, is_gate=start == 0):
        yield Alternative(_NAME, words, partial(_taken, order))


def _taken(order: Array, operands: Sequence[Array]) -> Array:
    return operands[0][:, order]


class _Rows:
    """A weight [R, C], [X, R, C], or the biases [X, R] of experts, made of rows of two of that shape when a part of it is asked for."""

    def __init__(self, gate: Array, up: Array, order: Array, *, of_experts: bool) -> None:
        self._gate, self._up, self._order, self._of_experts = gate, up, order, of_experts
        self.shape, self.ndim = gate.shape, len(gate.shape)

    def __getitem__(self, part: int | slice | Array) -> Array:
        if self._of_experts:  # a part is of experts: of each, all rows
            axis = 0 if isinstance(part, int | np.integer) else 1
            return np.concatenate([np.asarray(weight[part]) for weight in (self._gate, self._up)], axis=axis).take(self._order, axis=axis)
        order, rows = self._order[part], len(self._order)
        gate, up = (np.asarray(weight[order % rows]) for weight in (self._gate, self._up))
        return np.where((order < rows)[:, None], gate, up)


@explains("linear", "expert_linear", "expert_bias_add")
def weights_in_turn(site: Site) -> Iterator[Alternative]:
    """A weight, or biases, of gate and up have rows of both in turn, or are read so."""
    for index, name in site.weight_names():
        tensor = site.around.graph[name].attr_str("tensor")
        is_gate = _GATE in tensor
        partner = tensor.replace(_GATE, _UP) if is_gate else tensor.replace(_UP, _GATE)
        other = next((node for node in site.weights_like(name) if node.attr_str("tensor") == partner), None)
        if other is None or partner == tensor:
            continue
        own = site.operands[index]
        gate, up = (own, site.read(other)) if is_gate else (site.read(other), own)
        rows = own.shape[-1] if site.node.op == "expert_bias_add" else own.shape[-2]
        for words, order in _sources(rows, is_gate=is_gate):
            weight: Array = _Rows(gate, up, order, of_experts=site.node.op != "linear")  # type: ignore[assignment]
            yield from _tried(site, index, words, with_value(site, index, weight), weight)


def _tried(site: Site, index: int, words: str, compute: Compute, weight: Array) -> Iterator[Alternative]:
    """A weight in place of another, where it explains some rows; where biases are in turn too, the two together do."""
    if not traits_of(site.node).is_matmul:
        yield Alternative(_NAME, words, compute, GENERAL, together=(words,))
    elif site.recorded is None:
        yield Alternative(_NAME, words, compute, together=(words,))
    elif any(product.index == index and product.fits(weight) for product in products_of(site)):
        yield Alternative(_NAME, words, compute)
    elif any(node.op == "expert_bias_add" for node in site.around.graph.users(site.node.name)):
        yield Alternative(_NAME, words, compute, GENERAL, together=(words,))
