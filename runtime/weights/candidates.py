"""Every explanation that is tried for a tensor that differs, the cheapest first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from aprgraph.graph.words import counted, shape_text
from aprgraph.runtime.weights.any_orders import columns_in_another_order, experts_in_another_order, rows_in_another_order
from aprgraph.runtime.weights.block_scales import scaled_in_blocks
from aprgraph.runtime.weights.fit import Fit
from aprgraph.runtime.weights.row_orders import gate_and_up_orders, head_orders, latent_orders, wrong_head_counts
from aprgraph.runtime.weights.rows import ByteSwappedRows, OtherHalfRows, StackedRows, TransposedRows, rows_of
from aprgraph.runtime.weights.shards import stacked_shards
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
        yield from ((one, True) for one in (*head_orders(pair), *latent_orders(pair), *wrong_head_counts(pair)))
        if not pair.is_part:
            yield from ((one, True) for one in gate_and_up_orders(pair))
        yield from ((one, True) for one in experts_in_another_order(pair))
        yield from ((one, False) for one in _byte_orders(pair))
        yield from ((one, False) for one in _other_halves(pair))
    if not pair.is_part:
        yield from ((one, True) for one in _transposed(pair))
        yield from ((one, False) for one in stacked_shards(pair))
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


def _other_halves(pair: TensorPair) -> Iterator[Fit]:
    """Numbers of two bytes that were taken for the other 16-bit format, whatever they were stored in afterwards."""
    for taken, meant in (("F16", "BF16"), ("BF16", "F16")):
        text = f"the bits of {meant}, taken for {taken}, in {{}}"
        yield Fit("other-float", text.format("B"), OtherHalfRows(pair.rows_b, taken, meant))
        yield Fit("other-float", text.format("A"), pair.rows_b, target=OtherHalfRows(pair.rows_a, taken, meant))


def _transposed(pair: TensorPair) -> Iterator[Fit]:
    a, b = pair.a.dims, pair.b.dims
    if len(a) == len(b) > 1 and a == (*b[:-2], b[-1], b[-2]):
        yield Fit("transposed", f"transposed: {shape_text(a)} in A, {shape_text(b)} in B", TransposedRows(pair.file_b, pair.b))
    if not pair.a.has_dims(b) and math.prod(a) == math.prod(b) and a[-1] % pair.b.format.elements == 0:
        rows = StackedRows(pair.file_b, [replace(pair.b, dims=a, radius=None, in_pieces=None)])
        yield Fit("reshaped", f"the same elements one after the other, as {shape_text(a)} in A, {shape_text(b)} in B", rows)


def _other_tensors(pair: TensorPair) -> Iterator[Fit]:
    """B's other tensors of A's dims, then A's of B's: of the same name in another layer first, the nearest first of all."""
    layer, slot = pair.layer, pair.slot

    def distance(name: str) -> tuple[bool, int]:
        other, other_slot = layer_and_slot(name)
        return other_slot != slot, 0 if other is None or layer is None else abs(other - layer)

    infos = [info for info in pair.files.alike(pair.rows_a, pair.a) if info.name != pair.b.name]
    for info in sorted(infos, key=lambda info: distance(info.name)):
        yield Fit(
            "other-tensor", f"the weights of B's {info.name}", pair.files.rows_of_b(info), slot_text=_layers_away(pair, info.name, "in B")
        )
    # What overwrote a tensor may be there twice, and A's nowhere in B.
    infos = [info for info in pair.files.alike_in_a(pair.rows_b, pair.b) if info.name not in (pair.a.name, pair.b.name)]
    for info in sorted(infos, key=lambda info: distance(info.name)):
        text = f"B holds the weights of A's {info.name}"
        away = _layers_away(pair, info.name, "in A")
        yield Fit("other-tensor", text, rows_of(pair.file_a, info), target=pair.rows_b, slot_text=away and f"B holds {away}")


def _layers_away(pair: TensorPair, name: str, where: str) -> str:
    """``the weights of 1 layer later in B``, in words that are the same in every layer; empty where it is no other layer's."""
    other, other_slot = layer_and_slot(name)
    if other_slot != pair.slot or other is None or pair.layer is None:
        return ""
    return f"the weights of {counted(abs(other - pair.layer), 'layer')} {'later' if other > pair.layer else 'earlier'} {where}"
