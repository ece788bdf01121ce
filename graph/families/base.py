"""What a model family declares: what its files leave unsaid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aprgraph.graph.errors import UnsupportedModelError, shown
from aprgraph.graph.metadata import Metadata


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the dense feed-forward network (Shazeer et al. 2017, arXiv:1701.06538).

    ``normalise``: the weights of the chosen experts are divided by their sum. ``shared``: one more expert, which every
    position uses, weighted by a sigmoid gate of its own. ``optional``: files of the family may be dense instead.
    ``divides_ffn``: where the file has no size of one expert, it is the dense size divided by the experts used.
    """

    normalise: bool
    shared: bool = False
    optional: bool = False
    divides_ffn: bool = False


@dataclass(frozen=True)
class SlidingWindow:
    """Layers that attend to the last `attention.sliding_window` positions only.

    Every layer if ``period`` is 0; else every ``period``-th layer attends to all positions. ``rope_base`` is the sliding
    layers' own base of RoPE, which is then not scaled; None if they share the other layers'.
    """

    period: int
    rope_base: float | None = None


@dataclass(frozen=True)
class Sizes:
    """What an attention scale may depend on."""

    layers: int
    hidden: int
    heads: int
    head_size: int


def scale_by_head_size(sizes: Sizes) -> float:
    """1 / sqrt(D) (Vaswani et al. 2017, arXiv:1706.03762)."""
    return 1.0 / math.sqrt(sizes.head_size)


@dataclass(frozen=True)
class Family:
    """A GGUF ``general.architecture``.

    What the tensors show by being there (an untied head, frequency factors, a fused qkv) is found in the tensor list when
    the graph is built, and needs no declaration; what a file of the family must have is declared, so that its absence is
    an error and not another model. ``rope_base`` is the base where the file has none. ``qkv_bias``: q, k and v have
    biases. ``qk_norm``: each head of q and k is normalised before RoPE. ``post_norms``: the outputs of attention and
    feed-forward network are normalised before they are added. ``fused_gate_up``: ffn_up holds the gate's rows, then its
    own. ``scaled_embedding``: embedding rows are multiplied by sqrt(E).
    """

    architecture: str
    summary: str
    rope_pairing: str
    rope_base: float = 10000.0
    activation: str = "silu"
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    fused_gate_up: bool = False
    scaled_embedding: bool = False
    experts: Experts | None = None
    window: SlidingWindow | None = None
    attention_scale: Callable[[Sizes], float] = scale_by_head_size


def find_family(metadata: Metadata, families: Mapping[str, Family]) -> Family:
    """The family of a model. Raises UnsupportedModelError that lists those there are."""
    architecture = metadata.text("general.architecture")
    if architecture not in families:
        raise UnsupportedModelError(
            f"{metadata.path}: general.architecture is {shown(architecture)}; supported: {', '.join(sorted(families))}"
        )
    return families[architecture]
