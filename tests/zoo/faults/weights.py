"""Faults of weights: blocks decoded wrongly, rows and layouts mixed up, biases left out, the wrong tensor."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.block_formats import decode_reference
from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import left_out, reading
from tests.zoo.faults.places import Condition, Sites, anywhere, each_layer, each_layer_weight, either
from tests.zoo.planting import Call, Fault, Misreading, Stored
from tests.zoo.subjects import Subject


def _decode(stored: Stored, raw: Array) -> Array:
    return decode_reference(stored.info.format, raw, stored.info.dims)


def _blocks(stored: Stored) -> Array:
    """The bytes as [blocks, bytes of a block]; a view."""
    return stored.raw.reshape(-1, stored.info.format.block_bytes)


def _one_scale(stored: Stored) -> Array:
    """The scale of one block is that of another: of those of its tensor, the one that is furthest from it."""
    blocks = _blocks(stored)
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16)[:, 0].astype(np.float64)
    at = len(blocks) // 2
    blocks[at, :2] = blocks[np.abs(scales - scales[at]).argmax(), :2]
    return _decode(stored, stored.raw)


def _nibbles_swapped(stored: Stored) -> Array:
    blocks = _blocks(stored)
    blocks[:, 2:] = (blocks[:, 2:] >> 4) | (blocks[:, 2:] << 4)
    return _decode(stored, stored.raw)


def _neighbouring_nibbles(stored: Stored) -> Array:
    """Elements 2j and 2j + 1 out of byte j, where Q4_0 has j and j + 16."""
    value = stored.right.reshape(-1, 2, 16)
    return value.swapaxes(1, 2).reshape(stored.right.shape)


def _without_zero_point(stored: Stored) -> Array:
    scales = np.ascontiguousarray(_blocks(stored)[:, :2]).view(np.float16).astype(np.float64)
    return (stored.right.reshape(-1, 32) + 8 * scales).reshape(stored.right.shape)


def _unsigned(stored: Stored) -> Array:
    blocks = _blocks(stored)
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float64)
    return (scales * blocks[:, 2:]).reshape(stored.right.shape)


def _minimum_added(stored: Stored) -> Array:
    """d · scale · q + dmin · min: the sign bit of dmin turned over."""
    _blocks(stored)[:, 3] ^= 0x80
    return _decode(stored, stored.raw)


def _upper_scale_bits_lost(stored: Stored) -> Array:
    """The last four sub-blocks' scales and minima have their upper two bits in the bytes of the first four; here they are 0.

    The bytes 4..11 are the packed ones (ggml-quants.c of llama.cpp, get_scale_min_k4).
    """
    blocks = _blocks(stored)
    first = stored.right.reshape(-1, 8, 32)[:, :4]
    blocks[:, 4:12] &= 0x3F
    lost = _decode(stored, stored.raw).reshape(-1, 8, 32)
    lost[:, :4] = first
    return lost.reshape(stored.right.shape)


def _flushed(stored: Stored) -> Array:
    """Scales that are subnormal in float16 become 0."""
    blocks = _blocks(stored)
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16)[:, 0]
    blocks[np.abs(scales) < np.finfo(np.float16).smallest_normal, :2] = 0
    return _decode(stored, stored.raw)


def _two_rows_swapped(stored: Stored) -> Array:
    value = stored.right.copy()
    middle = value.shape[-2] // 2
    value[..., [middle, middle + 1], :] = value[..., [middle + 1, middle], :]
    return value


def _last_block_dropped(stored: Stored) -> Array:
    """The last 32 products of every sum are left out."""
    value = stored.right.copy()
    value[..., -32:] = 0.0
    return value


def _transposed(stored: Stored) -> Array:
    """Read as [in, out], the rows of which lie one after the other."""
    *experts, rows, columns = stored.right.shape
    return stored.right.reshape(*experts, columns, rows).swapaxes(-1, -2)


def _of_the_next_layer(stored: Stored) -> Array:
    """Of the first layer behind it that has such a weight; the last layer's is that of the first one."""
    layers = stored.subject.model.family.layers
    layer, rest = int(stored.info.name.split(".")[1]), stored.info.name.split(".", 2)[2]
    names = [f"blk.{(layer + step) % layers}.{rest}" for step in range(1, layers)]
    return stored.subject.weight(next(name for name in names if name in stored.subject.graph))


def _projection(misreading: Misreading) -> Sites:
    """The attention's output projection: Q4_0 in plain models."""
    return each_layer_weight(("attn_output.weight",), misreading, "attn_out")


def _down(misreading: Misreading, when: Condition = anywhere) -> Sites:
    """The down projection, inside the experts where there are any: Q4_0 in plain models."""
    return either(
        each_layer_weight(("ffn_down_exps.weight",), misreading, "moe_expert_out", when=when),
        each_layer_weight(("ffn_down.weight",), misreading, "ffn_out", when=when),
    )


def _has_another(subject: Subject, layer: int) -> bool:
    """Whether another layer has the same kind of network."""
    ends = [end for end in ("ffn_down_exps.weight", "ffn_down.weight") if f"blk.{layer}.{end}" in subject.graph]
    others = {*range(subject.model.family.layers)} - {layer}
    return all(any(f"blk.{other}.{end}" in subject.graph for other in others) for end in ends)


def _q(misreading: Misreading) -> Sites:
    return either(
        each_layer_weight(("attn_q.weight",), misreading, "qkv_matmul"),
        each_layer_weight(("attn_qkv.weight",), misreading, "qkv_matmul"),
    )


def _of_k_alone(call: Call) -> Array:
    """The second bias is 0, or k's part of one bias of all three."""
    if len(call.operands) == 2:
        x, bias = call.operands
        family, columns = call.subject.model.family, np.arange(len(bias))
        first, last = (heads * family.head_size for heads in (family.heads[0], family.heads[0] + family.kv_heads[0]))
        return call.compute([x, np.where((columns >= first) & (columns < last), np.float32(0), bias)])
    return call.compute([operand * np.float32(index != 2) for index, operand in enumerate(call.operands)])


FAULTS = (
    Fault("one block's scale", "weights", "One block of Q4_0 gets the scale of another.", _projection(_one_scale)),
    Fault("nibbles swapped", "weights", "The low and the high half of each byte of Q4_0 change places.", _projection(_nibbles_swapped)),
    Fault(
        "nibbles side by side",
        "weights",
        "A byte of Q4_0 is taken for two neighbouring elements, not for i and i + 16.",
        _projection(_neighbouring_nibbles),
        seen="kekzl/imp#567",
    ),
    Fault("zero point forgotten", "weights", "Q4_0 without the 8 that is subtracted.", _projection(_without_zero_point)),
    Fault("Q8_0 unsigned", "weights", "The bytes of Q8_0 are read as 0..255.", _q(_unsigned)),
    Fault("Q4_K minimum added", "weights", "Q4_K's minimum is added.", _q(_minimum_added), variants=("k-quants",)),
    Fault(
        "Q4_K scale bits",
        "weights",
        "Q4_K's scales of the last four sub-blocks lose their upper two bits.",
        _q(_upper_scale_bits_lost),
        variants=("k-quants",),
        seen="paiml/aprender#2141",
    ),
    Fault(
        "subnormal scales flushed",
        "weights",
        "Block scales that are subnormal in float16 become 0.",
        _projection(_flushed),
        variants=("small scales",),
    ),
    Fault("two rows swapped", "weights", "Two neighbouring rows of a weight change places.", _down(_two_rows_swapped)),
    Fault("one K block dropped", "kernel", "The last 32 products of every sum are left out.", _down(_last_block_dropped)),
    Fault("layout transposed", "weights", "A matrix is read as [in, out].", _projection(_transposed)),
    Fault("weights of the next layer", "weights", "The down projection is the next layer's.", _down(_of_the_next_layer, _has_another)),
    Fault(
        "bias forgotten",
        "graph",
        "The biases of q, k and v are left out.",
        each_layer({"qkv_bias": left_out}, "qkv_bias"),
        seen="huggingface/transformers#35060",
    ),
    Fault(
        "bounds of q, k and v forgotten",
        "graph",
        "Elements of q, k and v are not cut off at their bound.",
        each_layer({"qkv_clipped": left_out}, "q_post_rope", "k_post_rope", "attention"),
    ),
    Fault("bias of k forgotten", "graph", "The bias of k alone is left out.", each_layer({"qkv_bias": _of_k_alone}, "qkv_bias")),
    Fault(
        "bias added twice",
        "kernel",
        "The biases of q, k and v are added twice.",
        each_layer({"qkv_bias": reading(0, lambda call: call.compute())}, "qkv_bias"),
    ),
)
