"""Honest float32: the graph's ops with rounded operands and results, and sums in an order of their own.

Two runs with other seeds differ as two correct engines do. No BLAS: equal rows of a weight give equal numbers, so that a tie
between experts is one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import OPS, Array
from aprgraph.graph.ops.heads import is_shared


@dataclass(frozen=True)
class Float32:
    """Computes nodes in float32; ``seed`` decides the order of the sums of each."""

    seed: int

    def compute(self, node: Node, operands: Sequence[Array]) -> Array:
        """The value of ``node`` from its operands, f32 (inputs and positions are int64)."""
        function = OPS[node.op].reference
        assert function is not None, node.op
        special = _IN_ANOTHER_ORDER.get(node.op)
        with np.errstate(all="ignore"):  # NaN and Inf are values here, and some faults make them
            if special is not None:
                value = special(node, operands, np.random.default_rng([self.seed, zlib.crc32(node.name.encode())]))
            else:
                value = function(operands, node.attrs)
            return np.asarray(value, np.float32)


def _product(x: Array, weight: Array, order: Array) -> Array:
    """x · Wᵀ [..., R] of x [..., 1, C] and W [..., R, C], summed in ``order``."""
    return np.asarray((x[..., order] * weight[..., order]).sum(axis=-1))


def _linear(_node: Node, operands: Sequence[Array], generator: np.random.Generator) -> Array:
    x, *weights = operands
    order = generator.permutation(x.shape[-1])
    return np.concatenate([_product(x[:, None, :], np.atleast_2d(weight)[None], order) for weight in weights], axis=1)


def _expert_linear(_node: Node, operands: Sequence[Array], generator: np.random.Generator) -> Array:
    x, ids, weight = operands
    known = ~np.isnan(ids)
    inputs = x if x.ndim == 3 else np.repeat(x[:, None], ids.shape[1], axis=1)
    order = generator.permutation(x.shape[-1])
    product = _product(inputs[:, :, None, :], weight[np.where(known, ids, 0).astype(np.int64)], order)
    return np.where(known[..., None], product, np.nan)


def _head_linear(node: Node, operands: Sequence[Array], generator: np.random.Generator) -> Array:
    x, weight = operands
    heads, _, size = weight.shape
    inputs = x.reshape(len(x), 1 if is_shared(node.attrs) else heads, 1, size)
    product = _product(inputs, weight[None], generator.permutation(size))
    return product.reshape(len(x), -1)


def _scores(node: Node, operands: Sequence[Array], generator: np.random.Generator) -> Array:
    q, k = operands
    heads, kv_heads = node.attr_int("heads"), node.attr_int("kv_heads")
    order = generator.permutation(q.shape[1] // heads)
    q, k = (part.reshape(len(part), count, -1)[..., order].reshape(part.shape) for part, count in ((q, heads), (k, kv_heads)))
    reference = OPS["attn_scores"].reference
    assert reference is not None
    return reference([q, k], node.attrs)


def _norm(node: Node, operands: Sequence[Array], generator: np.random.Generator) -> Array:
    x, *weights = operands
    grouped = x.reshape(len(x), node.attr_int("groups"), -1)
    mean_square = np.square(grouped[..., generator.permutation(grouped.shape[-1])]).mean(axis=-1, keepdims=True)
    normed = grouped / np.sqrt(mean_square + np.float32(node.attr_float("eps")))
    return (normed * weights[0] if weights else normed).reshape(x.shape)


def _layer_norm(node: Node, operands: Sequence[Array], generator: np.random.Generator) -> Array:
    x, *weights = operands
    grouped = x.reshape(len(x), node.attr_int("groups"), -1)
    order = generator.permutation(grouped.shape[-1])
    centred = grouped - grouped[..., order].mean(axis=-1, keepdims=True)
    variance = np.square(centred[..., order]).mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(variance + np.float32(node.attr_float("eps")))
    for op, operand in zip((np.multiply, np.add), weights, strict=False):
        normed = op(normed, operand)
    return normed.reshape(x.shape)


_IN_ANOTHER_ORDER: dict[str, Callable[[Node, Sequence[Array], np.random.Generator], Array]] = {
    "linear": _linear,
    "expert_linear": _expert_linear,
    "head_linear": _head_linear,
    "attn_scores": _scores,
    "rms_norm": _norm,
    "layer_norm": _layer_norm,
}
