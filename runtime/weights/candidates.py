"""Every explanation that is tried for a tensor that differs, the cheapest first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from aprgraph.graph.words import counted, shape_text
from aprgraph.runtime.weights.fit import Fit, measure, sample_of
from aprgraph.runtime.weights.row_orders import (
    experts_in_another_order,
    gate_and_up_orders,
    head_orders,
    rows_in_another_order,
)
from aprgraph.runtime.weights.rows import StackedRows, TransposedRows
from aprgraph.runtime.weights.tensor_pair import TensorPair, layer_and_slot, rows_of

#: Rows by which another tensor is told to be unlike, and how unlike.
_ROWS_AT_FIRST, _UNLIKE = 4, 0.5


def same_rows(pair: TensorPair) -> Fit:
    """B's rows as they lie."""
    return Fit("same", "the same", pair.rows_b)


def candidates(pair: TensorPair) -> Iterator[tuple[Fit, bool]]:
    """Explanations, and whether each may come with a factor. All are of B's rows that are not simply A's."""
    if pair.a.has_dims(pair.b.dims):
        if pair.is_vector:
            yield from ((one, False) for one in _norm_offsets(pair))
        yield same_rows(pair), True
        yield from ((one, True) for one in head_orders(pair))
        yield from ((one, True) for one in gate_and_up_orders(pair))
        yield from ((one, True) for one in experts_in_another_order(pair))
    yield from ((one, True) for one in _transposed(pair))
    yield from ((one, False) for one in _other_tensors(pair))
    if pair.a.has_dims(pair.b.dims):
        yield from ((one, True) for one in rows_in_another_order(pair))


def _norm_offsets(pair: TensorPair) -> Iterator[Fit]:
    """Norms that hold w on one side and 1 + w on the other."""
    if pair.slot.endswith("norm.weight"):
        yield Fit("norm-plus-one", "A holds 1 + w where B holds w", pair.rows_b, offset=1.0)
        yield Fit("norm-plus-one", "B holds 1 + w where A holds w", pair.rows_b, offset=-1.0)


def _transposed(pair: TensorPair) -> Iterator[Fit]:
    a, b = pair.a.dims, pair.b.dims
    if len(a) == len(b) > 1 and a == (*b[:-2], b[-1], b[-2]):
        yield Fit("transposed", f"transposed: {shape_text(a)} in A, {shape_text(b)} in B", TransposedRows(pair.file_b, pair.b))
    if not pair.a.has_dims(b) and math.prod(a) == math.prod(b) and a[-1] % pair.b.format.elements == 0:
        rows = StackedRows(pair.file_b, [replace(pair.b, dims=a)])
        yield Fit("reshaped", f"the same elements one after the other, as {shape_text(a)} in A, {shape_text(b)} in B", rows)


def _other_tensors(pair: TensorPair) -> Iterator[Fit]:
    """B's other tensors of A's dims: of the same name in another layer first, the nearest first of all."""
    layer, slot = pair.layer, pair.slot

    def distance(name: str) -> tuple[bool, int]:
        other, other_slot = layer_and_slot(name)
        return other_slot != slot, 0 if other is None or layer is None else abs(other - layer)

    infos = [info for info in pair.file_b.tensors.values() if info.name != pair.b.name and info.has_dims(pair.a.dims)]
    few = sample_of(pair.rows_a)[:: max(1, len(sample_of(pair.rows_a)) // _ROWS_AT_FIRST)] if not pair.is_vector else None
    for info in sorted(infos, key=lambda info: distance(info.name)):
        rows = rows_of(pair.file_b, info)
        other, other_slot = layer_and_slot(info.name)
        summary = ""
        if other_slot == slot and other is not None and layer is not None:
            summary = f"the weights of {counted(abs(other - layer), 'layer')} {'later' if other > layer else 'earlier'} in B"
        fit = Fit("other-tensor", f"the weights of B's {info.name}", rows, slot_text=summary)
        if abs(measure(pair.rows_a, fit, few).cosine) >= _UNLIKE:
            yield fit
