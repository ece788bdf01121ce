"""The arithmetic of other engines, to measure what it costs: how they round, and a whole model computed so.

Every rounding takes float64 [..., C] and gives float64: what an engine reads that holds the value in that format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import Model
from aprgraph.graph.ops import OPS, is_input, is_weight, traits_of
from aprgraph.graph.roundings import ROUNDINGS, round_values
from aprgraph.runtime.decoded_weights import decode_weight

F64 = npt.NDArray[np.float64]
Rounding = Callable[[F64], F64]


def exact(x: F64) -> F64:
    """No rounding."""
    return x


def to_float16(x: F64) -> F64:
    return round_values(x, ROUNDINGS["f16"])


def to_bfloat16(x: F64) -> F64:
    return round_values(x, ROUNDINGS["bf16"])


def to_float32(x: F64) -> F64:
    return x.astype(np.float32).astype(np.float64)


def to_tf32(x: F64) -> F64:
    """The 10 bits of mantissa that a tensor core reads of a float32, rounded to nearest, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    kept = bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    return (kept & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def to_q8_0(x: F64) -> F64:
    """llama.cpp's activations beside Q4_0, Q5_0 and Q8_0 weights: as ``round`` nodes have them, which are held to ggml's own numbers
    (tests/graph/test_arithmetics.py). A last block that is not full is filled up with zeros.
    """
    return _by_blocks(x, 32, partial(round_values, rounding=ROUNDINGS["q8_0_avx"]))


def to_q8_k(x: F64) -> F64:
    """llama.cpp's activations beside K-quants, in the same way."""
    return _by_blocks(x, 256, partial(round_values, rounding=ROUNDINGS["q8_k"]))


def _by_blocks(x: F64, elements: int, rounded: Rounding) -> F64:
    """``rounded`` on blocks along the last axis; a last block that is not full is filled up with zeros."""
    columns = x.shape[-1]
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], -columns % elements))], axis=-1)
    return rounded(padded.reshape(*x.shape[:-1], -1, elements)).reshape(padded.shape)[..., :columns]


def through_format(weight: F64, name: str) -> F64:
    """A weight [..., C] quantised to the block format ``name`` and decoded again; Q4_K by ``to_q4_k``."""
    if name == "Q4_K":
        return to_q4_k(weight)
    kind = GGMLQuantizationType[name]
    return np.asarray(dequantize(quantize(weight.astype(np.float32), kind), kind).reshape(weight.shape).astype(np.float64))


def to_q4_k(weight: F64) -> F64:
    """Q4_K's blocks (256 = 8 x 32; 6-bit scales and minima under two float16 ones), each from its least to its largest value.

    llama.cpp searches for better scales, so its error is somewhat smaller.
    """

    def rounded(blocks: F64) -> F64:
        parts = blocks.reshape(*blocks.shape[:-1], 8, 32)
        least = np.minimum(parts.min(axis=-1, keepdims=True), 0)
        scale = (parts.max(axis=-1, keepdims=True) - least) / 15

        def six_bits(x: F64) -> F64:
            unit = (x.max(axis=-2, keepdims=True) / 63).astype(np.float16).astype(np.float64)
            return np.asarray(np.round(np.divide(x, unit, out=np.zeros_like(x), where=unit > 0)) * unit)

        scale, offset = six_bits(scale), six_bits(-least)
        quants = np.clip(np.round(np.divide(parts + offset, scale, out=np.zeros_like(parts), where=scale > 0)), 0, 15)
        return np.asarray(quants * scale - offset).reshape(blocks.shape)

    return _by_blocks(weight, 256, rounded)


#: Operands that an engine rounds before it multiplies: those of weights' products, and those of attention's.
_INPUTS: Mapping[str, tuple[int, ...]] = {
    "linear": (0,), "expert_linear": (0,), "head_linear": (0,), "attn_scores": (0, 1), "attn_mix": (0, 1),
}  # fmt: skip
#: Ops whose results are ids, which nothing rounds.
_IDS = ("top_k", "rope_angles", "last_row")


def run_in(
    graph: Graph,
    model: Model,
    tokens: Sequence[int],
    *,
    inputs: Rounding = exact,
    attention_inputs: Rounding | None = None,
    outputs: Rounding = exact,
    weights: Mapping[str, F64] | Callable[[Node], F64] | None = None,
) -> Iterator[tuple[Node, F64]]:
    """Yield every computed node with its value, in float64 but for the roundings: ``inputs`` of what is multiplied with weights,
    ``attention_inputs`` of q, k, v and the softmax (default: as ``inputs``), ``outputs`` of every value. For small models: all
    values are kept, and weights are decoded whole; ``weights`` may give them.
    """
    values: dict[str, npt.NDArray[np.generic]] = {}
    decode = weights if callable(weights) else (lambda node: decode_weight(model, node))
    for node in graph:
        if is_weight(node):
            continue
        if is_input(node):
            values[node.name] = np.asarray(tokens) if node.name == "tokens" else np.arange(len(tokens))
            continue
        operands = [values[name] if name in values else decode(graph[name]) for name in graph.operand_names(node.name)]
        rounding = inputs if traits_of(node).is_matmul else attention_inputs or inputs
        for index in _INPUTS.get(node.op, ()):
            operands[index] = rounding(operands[index])
        function = OPS[node.op].reference
        assert function is not None, f"{node.op} has no reference"
        value = np.asarray(function(operands, node.attrs))
        values[node.name] = value if node.op in _IDS else outputs(value)
        yield node, values[node.name]
