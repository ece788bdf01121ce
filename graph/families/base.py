"""What a model family declares, and the hyperparameters that are read by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.metadata import Metadata

_MAX_LAYERS = 4096
_MAX_HEADS = 1 << 16


@dataclass(frozen=True)
class Family:
    """A GGUF ``general.architecture``: what its files leave unsaid.

    Everything that the tensors show by being there (biases, an untied head, frequency factors) is found in the tensor
    list when the graph is built, and needs no declaration.
    """

    architecture: str
    summary: str
    rope_pairing: str


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers of one model, in the letters of the stage table (see graph/stages.py)."""

    layers: int
    context: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_size: int
    rope_dims: int
    rope_base: float
    rope_scale: float
    eps: float
    scale: float


def read_hyperparameters(metadata: Metadata, family: Family) -> Hyperparameters:
    """Read and check the numbers of a model. Raises ModelError, or UnsupportedModelError for features not there yet."""
    prefix = family.architecture
    where = metadata.path

    def key(name: str) -> str:
        return f"{prefix}.{name}"

    layers = metadata.positive(key("block_count"))
    if layers > _MAX_LAYERS:
        raise ModelError(f"{where}: {key('block_count')} is {layers}, expected at most {_MAX_LAYERS}")
    if metadata.integer(key("expert_count"), 0):
        raise UnsupportedModelError(f"{where}: {key('expert_count')} is set: mixture-of-experts models are not supported yet")
    hidden = metadata.positive(key("embedding_length"))
    heads = metadata.positive(key("attention.head_count"))
    kv_heads = metadata.positive(key("attention.head_count_kv"), heads)
    if heads > _MAX_HEADS or heads % kv_heads:
        raise ModelError(
            f"{where}: {heads} query heads ({key('attention.head_count')}) do not divide among {kv_heads} KV heads "
            f"({key('attention.head_count_kv')})"
        )
    if key("attention.key_length") not in metadata and hidden % heads:
        raise ModelError(
            f"{where}: {key('embedding_length')} {hidden} is not a multiple of {key('attention.head_count')} {heads}, and "
            f"{key('attention.key_length')} is not given"
        )
    head_size = metadata.positive(key("attention.key_length"), max(hidden // heads, 1))
    value_size = metadata.positive(key("attention.value_length"), head_size)
    if value_size != head_size:
        raise UnsupportedModelError(
            f"{where}: heads of v have {value_size} elements and those of k {head_size}; only equal sizes are supported"
        )
    rope_dims = metadata.positive(key("rope.dimension_count"), head_size)
    if rope_dims % 2 or rope_dims > head_size:
        raise ModelError(
            f"{where}: {key('rope.dimension_count')} is {rope_dims}, expected an even number of at most the head size {head_size}"
        )
    rope_base = metadata.real(key("rope.freq_base"), 10000.0)
    eps = metadata.real(key("attention.layer_norm_rms_epsilon"))
    if rope_base <= 0:
        raise ModelError(f"{where}: {key('rope.freq_base')} is {rope_base}, expected a positive number")
    if eps < 0:
        raise ModelError(f"{where}: {key('attention.layer_norm_rms_epsilon')} is {eps}, expected a number of at least 0")
    return Hyperparameters(
        layers=layers,
        context=metadata.positive(key("context_length")),
        hidden=hidden,
        ffn=metadata.positive(key("feed_forward_length")),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        rope_dims=rope_dims,
        rope_base=rope_base,
        rope_scale=_rope_scale(metadata, prefix),
        eps=eps,
        # 0 stands for the default, as in llama.cpp.
        scale=metadata.real(key("attention.scale"), 0.0) or 1.0 / math.sqrt(head_size),
    )


def _rope_scale(metadata: Metadata, prefix: str) -> float:
    """What positions are multiplied by: 1, or 1 / factor under linear scaling.

    As llama.cpp reads it: a factor without a type means linear, 0 means none, and older files call it `rope.scale_linear`.
    """
    kind_key, key, old_key = (f"{prefix}.rope.{name}" for name in ("scaling.type", "scaling.factor", "scale_linear"))
    kind = metadata.text(kind_key, "linear")
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise UnsupportedModelError(f"{metadata.path}: {kind_key} is {shown(kind)}; supported are none and linear")
    if key not in metadata and old_key in metadata:
        key = old_key
    factor = metadata.real(key, None if kind_key in metadata else 0.0)
    if factor == 0:
        return 1.0
    if factor < 0 or not math.isfinite(1.0 / factor):
        raise ModelError(f"{metadata.path}: {key} is {factor}, expected a positive number")
    return 1.0 / factor


def find_family(metadata: Metadata, families: Mapping[str, Family]) -> Family:
    """The family of a model. Raises UnsupportedModelError that lists those there are."""
    architecture = metadata.text("general.architecture")
    if architecture not in families:
        raise UnsupportedModelError(
            f"{metadata.path}: general.architecture is {shown(architecture)}; supported: {', '.join(sorted(families))}"
        )
    return families[architecture]
