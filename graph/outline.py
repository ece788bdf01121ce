"""The outline of a model without a file: the graph that a family builds for given numbers, and its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.builder import GraphBuilder
from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.base import Family
from aprgraph.graph.families.numbers import Number
from aprgraph.graph.families.own_code import own_code
from aprgraph.graph.families.recurrent import RecurrentLayers
from aprgraph.graph.ir import Graph
from aprgraph.graph.metadata import ListValue, Metadata
from aprgraph.graph.sources.source import TensorInfo
from aprgraph.graph.text import print_graph

#: Small numbers for the keys that a file must have. Keys are GGUF's, without the architecture in front.
SMALL_NUMBERS: Mapping[str, int | float] = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.kv_lora_rank": 32,
    "rope.dimension_count": 8,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5,
    "expert_count": 8,
    "expert_used_count": 2,
    "expert_feed_forward_length": 32,
    "full_attention_interval": 2,
    "shortconv.l_cache": 3,
    "ssm.conv_kernel": 4,
    "ssm.group_count": 2,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 64,
    "xielu.alpha_p": 0.25,
    "xielu.alpha_n": -0.75,
    "xielu.beta": 0.5,
    "xielu.eps": -1e-6,
    "activation_sparsity_scale": 0.5,
    "embedding_length_per_layer_input": 32,
}


@dataclass(frozen=True)
class AskedWeight:
    """A tensor that the graph needs. ``what`` is "weight", "bias" or "scale"; ``dims`` are outermost first."""

    name: str
    slot: str
    what: str
    layer: int | None
    dims: tuple[int, ...]


class AskedTensors:
    """Tensors that come into being when the builder asks for them.

    A tensor that a model may lack is there if ``optional``, which gets its name in GGUF, returns true.
    """

    def __init__(self, vocabulary: int, optional: Callable[[str], bool]) -> None:
        self.vocabulary, self.has = vocabulary, optional
        self.asked: dict[str, tuple[int, ...]] = {}

    def tensor(self, name: str, dims: tuple[int, ...] | None = None) -> TensorInfo:
        """A tensor of ``dims``, in F32."""
        if dims is not None:
            self.asked[name] = dims
        return TensorInfo(name, dims or (), BLOCK_FORMATS["F32"], 0, 0)

    def lacks(self, names: Sequence[str], beside: str) -> None:
        """Raise ModelError: ``optional`` has only some of the tensors that belong together."""
        raise ModelError(f"{beside} is to be there, but {', '.join(names)} is not")


@dataclass(frozen=True)
class Outline:
    """A family, its graph, and the weights that the graph reads, by tensor name in the order of their first use.

    The graph has not been verified, nor compared with any file.
    """

    family: Family
    graph: Graph
    weights: Mapping[str, AskedWeight]

    def __str__(self) -> str:
        return print_graph(self.graph)


def outline(
    kind: type[Family], numbers: Mapping[str, object], *, vocabulary: int, optional: Callable[[str], bool] = lambda _: False
) -> Outline:
    """The outline of a model of the family ``kind`` with ``numbers``, by GGUF key without the architecture in front.

    ``optional`` says whether the model has a tensor that models of the family may lack; it gets the tensor's name in
    GGUF. Raises ModelError or UnsupportedModelError for numbers that make no model.
    """
    keys = {key if key in kind.bare_keys else f"{kind.architecture}.{key}": value for key, value in numbers.items()}
    metadata = Metadata(Path(f"{kind.architecture} without a file"), keys)
    with own_code(kind):
        family = kind(metadata)
    tensors = AskedTensors(vocabulary, optional)
    builder = GraphBuilder(tensors, family, kind.architecture)
    return Outline(family, builder.build(), {name: AskedWeight(name, *builder.slots[name], dims) for name, dims in tensors.asked.items()})


def numbers_to_give(kind: type[Family]) -> list[str]:
    """The keys that every file of a family has, and for which SMALL_NUMBERS has no number."""
    numbers = [reading for reading in kind.readings().values() if isinstance(reading, Number)]
    return [each.gguf for each in numbers if each.is_required and each.given is None and each.gguf not in SMALL_NUMBERS]


def small_outline(kind: type[Family], **others: object) -> Outline:
    """The outline of a small model without optional tensors, every second of whose layers is recurrent if only files say which are.

    Its numbers are ``others``, and SMALL_NUMBERS for the keys that the family must have. Raises ModelError if one is in neither.
    """
    missing = [key for key in numbers_to_give(kind) if key not in others]
    if missing:
        raise ModelError(
            f"no small number is known for {', '.join(missing)}, which the family {kind.__name__} must have; give small_outline some, "
            f"such as **{{{missing[0]!r}: 4}}"
        )
    read = {reading.gguf for reading in kind.readings().values() if isinstance(reading, Number) and not reading.is_optional}
    numbers: dict[str, object] = {key: value for key, value in SMALL_NUMBERS.items() if key in read}
    if any(isinstance(reading, RecurrentLayers) and reading.period is None for reading in kind.readings().values()):
        layers = numbers["block_count"] if "block_count" not in others else others["block_count"]
        assert isinstance(layers, int)
        flags: list[int | float | bool] = [layer % 2 == 0 for layer in range(layers)]
        numbers[RecurrentLayers.key] = ListValue(flags)
    numbers |= others
    return outline(kind, {**numbers, **kind.small_numbers(numbers), **others}, vocabulary=288)
