"""What a worker of a replay does: it computes a part of a graph in float64, on inputs that it is given and weights that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import Array
from aprgraph.runtime.decoded_weights import DecodedWeights
from aprgraph.runtime.model_place import ModelPlace
from aprgraph.runtime.reference import evaluate


def compute_part(
    place: ModelPlace, graph: Graph, inputs: Mapping[str, Array], states: dict[str, Array], wanted: frozenset[str]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The values of the nodes ``wanted``, and ``states`` as the graph leaves them. Raises NotOnThisMachineError without the model."""
    weights = _weights(place)
    values = {node.name: value for node, value in evaluate(graph, inputs, weights.read_in_parts, states) if node.name in wanted}
    return values, states


@lru_cache(maxsize=2)  # two sides may each have a model
def _weights(place: ModelPlace) -> DecodedWeights:
    return DecodedWeights(place.open(), keep=1 << 27)
