"""Every explanation that is tried for a tensor that differs, the cheapest first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from aprgraph.graph.words import counted, shape_text
from aprgraph.runtime.weights.any_orders import columns_in_another_order, experts_in_another_order, rows_in_another_order
from aprgraph.runtime.weights.block_scales import scaled_in_blocks
from aprgraph.runtime.weights.fit import Fit
from aprgraph.runtime.weights.row_orders import gate_and_up_orders, head_orders, latent_orders
from aprgraph.runtime.weights.rows import ByteSwappedRows, StackedRows, TransposedRows
from aprgraph.runtime.weights.tensor_names import layer_and_slot
from aprgraph.runtime.weights.tensor_pair import TensorPair


def same_rows(pair: TensorPair) -> Fit:
    """B's rows as they lie."""
    return Fit("same", "the same", pair.rows_b)


def candidates(pair: TensorPair) -> Iterator[tuple[Fit, bool]]:
    """Explanations, and whether each may come with a factor. All are of B's rows that are not simply A's."""
    has_dims = pair.a.has_dims(pair.b.dims)
    if has_dims:
        if pair.is_vector:
            yield from ((one, False) for one in _norm_offsets(pair))
        yield same_rows(pair), True
        yield from ((one, True) for one in (*head_orders(pair), *latent_orders(pair)))
        if not pair.is_part:
            yield from ((one, True) for one in gate_and_up_orders(pair))
        yield from ((one, True) for one in experts_in_another_order(pair))
        yield from ((one, False) for one in _byte_orders(pair))
    if not pair.is_part:
        yield from ((one, True) for one in _transposed(pair))
    yield from ((one, False) for one in _other_tensors(pair))
    if has_dims:
        yield from ((one, True) for one in rows_in_another_order(pair))
        yield from ((one, True) for one in columns_in_another_order(pair))
        yield from ((one, False) for one in scaled_in_blocks(pair))


def _norm_offsets(pair: TensorPair) -> Iterator[Fit]:
    """Norms that hold w on one side and 1 + w on the other."""
    if pair.slot.endswith("norm.weight"):
        yield Fit("norm-plus-one", "A holds 1 + w where B holds w", pair.rows_b, offset=1.0)
        yield Fit("norm-plus-one", "B holds 1 + w where A holds w", pair.rows_b, offset=-1.0)


def _byte_orders(pair: TensorPair) -> Iterator[Fit]:
    """Numbers of two or four bytes with the last byte first."""
    a, b = pair.rows_a.rows, pair.rows_b.rows
    if not isinstance(a, StackedRows) or not isinstance(b, StackedRows):
        return
    text = "the bytes of each number are in the other order {}, as machines of the other endianness have them"
    if pair.a.format == pair.b.format:
        yield Fit("byte-order", text.format("in one of the two"), ByteSwappedRows(pair.file_b, b.tensors))
    else:
        yield Fit("byte-order", text.format("in B"), ByteSwappedRows(pair.file_b, b.tensors))
        yield Fit("byte-order", text.format("in A"), b, target=ByteSwappedRows(pair.file_a, a.tensors))


def _transposed(pair: TensorPair) -> Iterator[Fit]:
    a, b = pair.a.dims, pair.b.dims
    if len(a) == len(b) > 1 and a == (*b[:-2], b[-1], b[-2]):
        yield Fit("transposed", f"transposed: {shape_text(a)} in A, {shape_text(b)} in B", TransposedRows(pair.file_b, pair.b))
    if not pair.a.has_dims(b) and math.prod(a) == math.prod(b) and a[-1] % pair.b.format.elements == 0:
        rows = StackedRows(pair.file_b, [replace(pair.b, dims=a, radius=None)])
        yield Fit("reshaped", f"the same elements one after the other, as {shape_text(a)} in A, {shape_text(b)} in B", rows)


def _other_tensors(pair: TensorPair) -> Iterator[Fit]:
    """B's other tensors of A's dims: of the same name in another layer first, the nearest first of all."""
    layer, slot = pair.layer, pair.slot

    def distance(name: str) -> tuple[bool, int]:
        other, other_slot = layer_and_slot(name)
        return other_slot != slot, 0 if other is None or layer is None else abs(other - layer)

    infos = [info for info in pair.files.alike(pair.rows_a, pair.a) if info.name != pair.b.name]
    for info in sorted(infos, key=lambda info: distance(info.name)):
        other, other_slot = layer_and_slot(info.name)
        summary = ""
        if other_slot == slot and other is not None and layer is not None:
            summary = f"the weights of {counted(abs(other - layer), 'layer')} {'later' if other > layer else 'earlier'} in B"
        yield Fit("other-tensor", f"the weights of B's {info.name}", pair.files.rows_of_b(info), slot_text=summary)
