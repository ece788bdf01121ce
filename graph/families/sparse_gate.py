"""Feed-forward networks of which few neurons take part in a position (Spark Transformer, arXiv:2506.06644)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import REQUIRED, Number
from aprgraph.graph.metadata import ArrayValue

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder
    from aprgraph.graph.families.base import Family

_KEY, _FIELD = "activation_sparsity_scale", "activation_sparsity_pattern"
#: What the class of transformers takes where a checkpoint does not say: so many layers, the first ones, of models with more.
_SPARSE_LAYERS, _SHARE = 10, 0.95


class SparseGates(Decoder):
    """A decoder in which some layers leave of each position's gate projection what lies above a bound.

    The bound is the mean plus a number of standard deviations.
    """

    #: Whether the variance is the sum of the squares by one less than their number, as in llama.cpp; in transformers it is their mean.
    of_sample: ClassVar[bool] = False

    #: For each layer, or once for all, the deviations between mean and bound, -inf where the gate is left as it is.
    bounds = Number(lambda family, key, _: _bounds(family, key), _KEY, _FIELD, REQUIRED, None)

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """The gate projection, above its bound, and the up projection."""
        gate, up = super().gate_and_up(g, x, layer)
        factor = self.bounds[layer]
        if math.isinf(factor):
            return gate, up
        return g.apply("ffn_gate_sparse", "gaussian_top_k", gate, factor=factor, sample=self.of_sample), up


def with_bounds(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Gemma3nTextConfig of transformers 5.24 with the deviations in place of the share that lies below a bound."""
    layers, shares = fields.get("num_hidden_layers"), fields.get(_FIELD)
    if shares is None and type(layers) is int and layers > 0:
        sparse = _SPARSE_LAYERS if layers > _SPARSE_LAYERS else 0
        shares = [_SHARE] * min(sparse, layers) + [0.0] * (layers - sparse)
    if not isinstance(shares, list):
        return dict(fields)  # an error of the field's own
    return {**fields, _FIELD: [_deviations(one) for one in shares]}


def _deviations(share: object) -> float:
    """Where ``share`` of a normal distribution lies below, in float32, as transformers computes it; inf for what is no share."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
        return math.inf
    if share == 0:
        return -math.inf
    doubled = float(np.float32(2) * np.float32(share) - np.float32(1))
    inverse = np.float32(NormalDist().inv_cdf((doubled + 1) / 2) / math.sqrt(2))
    return float(inverse * np.float32(math.sqrt(2)))


def _bounds(family: Family, key: str) -> tuple[float, ...]:
    metadata, blocks = family.metadata, family.blocks
    if metadata.dialect != "hf" and not isinstance(metadata.get(key), ArrayValue):
        return (metadata.real(key),) * family.layers
    numbers = metadata.array(key).values()
    if len(numbers) != blocks or not all(isinstance(one, (int, float)) and one < math.inf for one in numbers):
        raise ModelError(
            f"{metadata.path}: {metadata.own_name(key)} has {len(numbers)} elements, expected a number for each of {blocks} layers, "
            + ("from 0 to below 1" if metadata.dialect == "hf" else "-inf where the gate is left as it is")
        )
    return tuple(float(one) for one in numbers[: family.layers])
