"""What a worker of a replay does: it computes a part of a graph in float64, on inputs that it is given and weights that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.families import load_family_file
from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import Array
from aprgraph.graph.sources import Source, TensorInfo, open_source
from aprgraph.runtime.decoded_weights import DecodedWeights
from aprgraph.runtime.executors.workers import NotOnThisMachineError
from aprgraph.runtime.reference import evaluate


@dataclass(frozen=True)
class ModelPlace:
    """A model file as a worker finds it: its ``path``, its ``fingerprint``, and the files that declare what its graph may name."""

    path: str
    fingerprint: str
    families: tuple[str, ...]


@dataclass(frozen=True)
class _Weights:
    """The tensors of a file, without the model that they make."""

    file: Source

    def tensor(self, name: str) -> TensorInfo:
        """The tensor ``name``."""
        return self.file.tensors[name]


def compute_part(
    place: ModelPlace, graph: Graph, inputs: Mapping[str, Array], states: dict[str, Array], wanted: frozenset[str]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The values of the nodes ``wanted``, and ``states`` as the graph leaves them. Raises NotOnThisMachineError without the model."""
    weights = _weights(place)
    values = {node.name: value for node, value in evaluate(graph, inputs, weights.read_in_parts, states) if node.name in wanted}
    return values, states


@lru_cache(maxsize=2)  # two sides may each have a model
def _weights(place: ModelPlace) -> DecodedWeights:
    try:
        for file in place.families:
            load_family_file(file)
        source = open_source(place.path)
    except AprgraphError as error:
        raise NotOnThisMachineError(str(error)) from None
    if source.fingerprint() != place.fingerprint:
        raise NotOnThisMachineError(f"{place.path}: not the model that is replayed, or it has changed since")
    return DecodedWeights(_Weights(source), keep=1 << 27)
