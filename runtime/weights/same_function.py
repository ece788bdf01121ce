"""Tensors that are reordered alike, so that the model computes the same: experts with their router, neurons with both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from aprgraph.graph.words import counted
from aprgraph.runtime.weights.finding import SAME, Status, TensorFinding
from aprgraph.runtime.weights.fit import Fit, measure
from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.model_numbers import expert_groups
from aprgraph.runtime.weights.rows import Index
from aprgraph.runtime.weights.tensor_pair import whole_pair
from aprgraph.runtime.weights.two_files import TwoFiles

_EXPERTS = tuple(f"ffn_{part}_exps.{what}" for part in ("gate", "up", "down", "gate_up") for what in ("weight", "bias"))
#: By what is reordered, slots with the kind of order that each is found in.
_ALIKE: Mapping[str, Mapping[str, str]] = {
    "experts": {"ffn_gate_inp.weight": "row-order", **dict.fromkeys(_EXPERTS, "expert-order")},
    "neurons": {"ffn_gate.weight": "row-order", "ffn_up.weight": "row-order", "ffn_down.weight": "column-order"},
    "neurons of the shared expert": {
        "ffn_gate_shexp.weight": "row-order", "ffn_up_shexp.weight": "row-order", "ffn_down_shexp.weight": "column-order",
    },
}  # fmt: skip
#: Vectors that go with them. Too little is in one to find an order by: it is looked at in that of the matrices.
_VECTORS: Mapping[str, tuple[str, ...]] = {
    "experts": ("ffn_gate_inp.bias", "exp_probs_b.bias"),
    "neurons": ("ffn_gate.bias", "ffn_up.bias"),
    "neurons of the shared expert": ("ffn_gate_shexp.bias", "ffn_up_shexp.bias"),
}
#: What must be among them: an order of one side alone is a fault.
_NEEDED = {
    "experts": ("ffn_gate_inp.weight",),
    "neurons": ("ffn_up.weight", "ffn_down.weight"),
    "neurons of the shared expert": ("ffn_up_shexp.weight", "ffn_down_shexp.weight"),
}


def mark_reordered(findings: Sequence[TensorFinding], files: TwoFiles) -> list[TensorFinding]:
    """The findings, those of tensors that are in one other order together as REORDERED. Raises ModelFileError.

    A router that takes the best groups of experts first computes the same only if the experts of a group stay together.
    """
    found, groups = list(findings), expert_groups((files.a, files.b))
    for what, kinds in _ALIKE.items():
        for matrices, vectors in _by_layer(found, kinds, _VECTORS[what]):
            order = _one_order([found[index] for index in matrices], kinds)
            slots = {found[index].slot for index in matrices}
            if order is None or not all(slot in slots for slot in _NEEDED[what]):
                continue
            measures = {index: _in_order(found[index].name, order, files) for index in vectors}
            if not all(measures.values()):
                continue
            moved = [*matrices, *(index for index in vectors if found[index].status not in SAME)]
            broken = next((count for count in groups if what == "experts" and not _keeps_groups(order, count)), 0)
            same = f"the {what} are in another order in all tensors of the layer that have them, which computes the same"
            for index in moved:
                one = found[index]
                if index in measures:
                    words = "the elements are in the order of the matrices' rows"
                    one = replace(one, status=Status.TRANSFORMED, kind="row-order", text=words, summary=words, measures=measures[index])
                if broken:
                    more = f", across the {counted(broken, 'group')} of which the router takes some, which computes something else"
                    found[index] = replace(one, text=one.text + more, summary=one.summary + more)
                else:
                    found[index] = replace(one, status=Status.REORDERED, text=same, summary=same)
    return found


def _by_layer(findings: Sequence[TensorFinding], kinds: Mapping[str, str], vectors: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
    """The matrices and the vectors of each layer."""
    layers: dict[int, tuple[list[int], list[int]]] = {}
    for index, one in enumerate(findings):
        if one.layer is not None and (one.slot in kinds or one.slot in vectors):
            layers.setdefault(one.layer, ([], []))[one.slot in vectors].append(index)
    yield from layers.values()


def _one_order(findings: Sequence[TensorFinding], kinds: Mapping[str, str]) -> Index | None:
    """The order that all of them are in; None if they are not."""
    first = findings[0].order if findings else None
    are_one = first is not None and all(
        one.kind == kinds[one.slot] and one.order is not None and np.array_equal(one.order, first) and "times B" not in one.text
        for one in findings
    )
    return first if are_one else None


def _in_order(name: str, order: Index, files: TwoFiles) -> Measures | None:
    """The measures of a vector with B's elements in that order; None where rounding does not explain what is left."""
    a, b = files.a.tensors.get(name), files.b.tensors.get(name)
    if a is None or b is None or not a.has_dims(b.dims):
        return None
    pair = whole_pair(files, a, b)
    if pair.rows_a.count != len(order):
        return None
    found = measure(pair.rows_a, Fit("row-order", "", pair.rows_b, order.__getitem__))
    return found if found.is_rounding else None


def _keeps_groups(order: Index, groups: int) -> bool:
    """Whether the experts of each of so many groups are those of one group."""
    size = len(order) // groups
    of_groups = order[: groups * size].reshape(groups, size) // max(size, 1)
    return bool((of_groups == of_groups[:, :1]).all())
