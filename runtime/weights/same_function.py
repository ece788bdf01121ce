"""Tensors that are reordered alike, so that the model computes the same: experts with their router, neurons with both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from aprgraph.runtime.weights.finding import Status, TensorFinding
from aprgraph.runtime.weights.rows import Index

_ROUTER = ("ffn_gate_inp.weight", "ffn_gate_inp.bias", "exp_probs_b.bias")
_EXPERTS = tuple(f"ffn_{part}_exps.{what}" for part in ("gate", "up", "down", "gate_up") for what in ("weight", "bias"))
_NEURONS = ("ffn_gate.weight", "ffn_up.weight", "ffn_gate.bias", "ffn_up.bias")
#: By what is reordered, slots with the kind of order that each is found in.
_ALIKE: Mapping[str, Mapping[str, str]] = {
    "experts": {**dict.fromkeys(_ROUTER, "row-order"), **dict.fromkeys(_EXPERTS, "expert-order")},
    "neurons": {**dict.fromkeys(_NEURONS, "row-order"), "ffn_down.weight": "column-order"},
}
#: What must be among them: an order of one side alone is a fault.
_NEEDED = {"experts": ("ffn_gate_inp.weight",), "neurons": ("ffn_up.weight", "ffn_down.weight")}


def mark_reordered(findings: Sequence[TensorFinding]) -> list[TensorFinding]:
    """The findings, those of tensors that are in one other order together as REORDERED."""
    found = list(findings)
    for what, kinds in _ALIKE.items():
        for group in _by_layer(found, kinds):
            orders = [found[index].order for index in group]
            slots = {found[index].slot for index in group}
            if not all(slot in slots for slot in _NEEDED[what]) or not _are_one([found[index] for index in group], orders, kinds):
                continue
            text = f"the {what} are in another order in all tensors of the layer that have them, which computes the same"
            for index in group:
                found[index] = replace(found[index], status=Status.REORDERED, text=text, summary=text)
    return found


def _by_layer(findings: Sequence[TensorFinding], kinds: Mapping[str, str]) -> Iterator[list[int]]:
    layers: dict[int, list[int]] = {}
    for index, one in enumerate(findings):
        if one.layer is not None and one.slot in kinds:
            layers.setdefault(one.layer, []).append(index)
    yield from layers.values()


def _are_one(findings: Sequence[TensorFinding], orders: Sequence[Index | None], kinds: Mapping[str, str]) -> bool:
    first = orders[0]
    return first is not None and all(
        one.kind == kinds[one.slot] and order is not None and np.array_equal(order, first) and "times B" not in one.text
        for one, order in zip(findings, orders, strict=True)
    )
