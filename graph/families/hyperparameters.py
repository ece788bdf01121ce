"""The numbers of one model, read from its metadata by what its family declares, and checked against each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from aprgraph.graph.families.base import Family, Sizes
from aprgraph.graph.families.rope_scaling import Rope, read_base, read_rope
from aprgraph.graph.metadata import ArrayValue, Metadata

_MAX_LAYERS = 4096
_MAX_HEADS = 1 << 16
_MAX_EXPERTS = 1 << 16


@dataclass(frozen=True)
class ExpertSizes:
    """A mixture of experts: ``used`` of ``count`` per position, with ``ffn`` columns each, and ``shared_ffn`` (or 0) of the shared one.

    The weights of the chosen ones are divided by their sum if ``normalise``, and multiplied by ``scale``.
    """

    count: int
    used: int
    ffn: int
    shared_ffn: int
    normalise: bool
    scale: float


@dataclass(frozen=True)
class Hyperparameters:
    """In the letters of the stage table (see graph/stages.py); ``ffn``, ``heads`` and ``kv_heads`` are those of each layer.

    ``extra_layers`` are the blocks behind the last layer, which predict later tokens and on which no logit depends. ``causal``: no
    position attends to later ones. ``window`` is how many positions a sliding layer attends to, 0 if there is none; ``sliding``
    says which layers slide, and ``sliding_rope`` what they turn q and k by. ``original_context`` is the context before any stretching.
    """

    layers: int
    extra_layers: int
    context: int
    original_context: int
    hidden: int
    ffn: tuple[int, ...]
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_size: int
    eps: float
    scale: float
    embedding_scale: float
    rope: Rope
    causal: bool
    window: int
    sliding: tuple[bool, ...]
    sliding_rope: Rope
    experts: ExpertSizes | None


def read_hyperparameters(metadata: Metadata, family: Family) -> Hyperparameters:
    """Read and check the numbers of a model. Raises ModelError, or UnsupportedModelError for features not there yet."""
    prefix = family.architecture
    where = metadata.path

    def key(name: str) -> str:
        return f"{prefix}.{name}"

    blocks = metadata.positive(key("block_count"))
    if blocks > _MAX_LAYERS:
        raise ModelError(f"{where}: {key('block_count')} is {blocks}, expected at most {_MAX_LAYERS}")
    extra = metadata.integer(key("nextn_predict_layers"), 0)
    if not 0 <= extra < blocks:
        raise ModelError(f"{where}: {key('nextn_predict_layers')} is {extra}, expected a number below {key('block_count')}, {blocks}")
    layers = blocks - extra
    hidden = metadata.positive(key("embedding_length"))
    heads, kv_heads = _read_heads(metadata, prefix, blocks)
    head_size = _read_head_size(metadata, prefix, hidden, heads[0])
    eps = metadata.real(key("attention.layer_norm_rms_epsilon"))
    if eps < 0:
        raise ModelError(f"{where}: {key('attention.layer_norm_rms_epsilon')} is {eps}, expected a number of at least 0")
    context = metadata.positive(key("context_length"))
    original_context = metadata.positive(key("rope.scaling.original_context_length"), context)
    rope = read_rope(metadata, prefix, head_size, family.rope_base, original_context)
    window, sliding = _read_window(metadata, family, layers)
    sliding_rope = rope
    if window and family.window is not None and family.window.rope_base is not None:
        base_key = metadata.first_of(key("rope.freq_base_swa"), key("rope.local.freq_base"))
        sliding_rope = Rope(rope.dims, read_base(metadata, base_key, family.window.rope_base))
    ffn = metadata.per_layer(key("feed_forward_length"), blocks)
    attention_scale = family.attention_scale(Sizes(layers, hidden, heads[0], head_size))
    return Hyperparameters(
        layers=layers,
        extra_layers=extra,
        context=context,
        original_context=original_context,
        hidden=hidden,
        ffn=ffn[:layers],
        heads=heads[:layers],
        kv_heads=kv_heads[:layers],
        head_size=head_size,
        eps=eps,
        # 0 stands for the default, as in llama.cpp.
        scale=metadata.real(key("attention.scale"), attention_scale) or attention_scale,
        embedding_scale=math.sqrt(hidden) if family.scaled_embedding else 1.0,
        rope=rope,
        causal=metadata.flag(key("attention.causal"), True),
        window=window,
        sliding=sliding,
        sliding_rope=sliding_rope,
        experts=_read_experts(metadata, family, blocks, ffn[0]),
    )


def _read_heads(metadata: Metadata, prefix: str, blocks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The query heads and the KV heads of every block."""
    key, kv_key = f"{prefix}.attention.head_count", f"{prefix}.attention.head_count_kv"
    heads = metadata.per_layer(key, blocks)
    # Without a number of their own there is a KV head for each query head.
    kv_heads = metadata.per_layer(kv_key, blocks, heads[0]) if kv_key in metadata else heads
    for layer, (count, kv_count) in enumerate(zip(heads, kv_heads, strict=True)):
        if count > _MAX_HEADS or count % kv_count:
            where = "" if len(set(heads)) == len(set(kv_heads)) == 1 else f" in layer {layer}"
            raise ModelError(f"{metadata.path}: {count} query heads ({key}) do not divide among {kv_count} KV heads ({kv_key}){where}")
    return heads, kv_heads


def _read_head_size(metadata: Metadata, prefix: str, hidden: int, heads: int) -> int:
    key = f"{prefix}.attention.key_length"
    if key not in metadata and hidden % heads:
        raise ModelError(
            f"{metadata.path}: {prefix}.embedding_length {hidden} is not a multiple of {prefix}.attention.head_count {heads}, and "
            f"{key} is not given"
        )
    head_size = metadata.positive(key, max(hidden // heads, 1))
    value_size = metadata.positive(f"{prefix}.attention.value_length", head_size)
    if value_size != head_size:
        raise UnsupportedModelError(
            f"{metadata.path}: heads of v have {value_size} elements and those of k {head_size}; only equal sizes are supported"
        )
    return head_size


def _read_window(metadata: Metadata, family: Family, layers: int) -> tuple[int, tuple[bool, ...]]:
    """The window, and for each layer whether it has it."""
    none = (0, (False,) * layers)
    if family.window is None:
        return none
    prefix = family.architecture
    key, pattern_key = f"{prefix}.attention.sliding_window", f"{prefix}.attention.sliding_window_pattern"
    window = metadata.integer(key, 0)
    if not 0 <= window < 1 << 31:
        raise ModelError(f"{metadata.path}: {key} is {window}, expected a number of positions, or 0 for none")
    if window == 0:
        return none
    if isinstance(metadata.get(pattern_key), ArrayValue):
        flags = metadata.array(pattern_key).values()
        if len(flags) < layers or not all(isinstance(flag, (bool, int)) for flag in flags):
            raise ModelError(
                f"{metadata.path}: {pattern_key} has {len(flags)} elements, expected true or false for each of {layers} layers"
            )
        return window, tuple(bool(flag) for flag in flags[:layers])
    # As in llama.cpp and transformers: with a period of 1 every layer is a "period-th", and no layer slides.
    period = metadata.integer(pattern_key, family.window.period)
    if period < 0:
        raise ModelError(f"{metadata.path}: {pattern_key} is {period}, expected a number of layers, 0 for a window in all of them")
    sliding = tuple(period == 0 or (layer + 1) % period != 0 for layer in range(layers))
    return (window, sliding) if any(sliding) else none


def _read_experts(metadata: Metadata, family: Family, blocks: int, ffn: int) -> ExpertSizes | None:
    prefix, declared = family.architecture, family.experts
    count_key, used_key = f"{prefix}.expert_count", f"{prefix}.expert_used_count"
    count = metadata.integer(count_key, 0) if declared is None or declared.optional else metadata.positive(count_key)
    if count == 0:
        return None
    if declared is None:
        raise UnsupportedModelError(f"{metadata.path}: {count_key} is {count}, but models of the family {prefix!r} have no experts")
    if not 0 < count <= _MAX_EXPERTS:
        raise ModelError(f"{metadata.path}: {count_key} is {count}, expected a number from 1 to {_MAX_EXPERTS}")
    used = _same_in_all(metadata, used_key, blocks)
    if used > count:
        raise ModelError(f"{metadata.path}: {used_key} is {used}, but there are {count} experts ({count_key}); expected at most that many")
    gating = metadata.integer(f"{prefix}.expert_gating_func", 0)
    if gating not in (0, 1):  # 0 and none: the default; 1: softmax
        raise UnsupportedModelError(f"{metadata.path}: {prefix}.expert_gating_func is {gating}; supported is 1, the softmax")
    default_ffn = max(ffn // used, 1) if declared.divides_ffn else ffn
    return ExpertSizes(
        count=count,
        used=used,
        ffn=_same_in_all(metadata, f"{prefix}.expert_feed_forward_length", blocks, default_ffn),
        shared_ffn=metadata.positive(f"{prefix}.expert_shared_feed_forward_length", ffn) if declared.shared else 0,
        normalise=metadata.flag(f"{prefix}.expert_weights_norm", declared.normalise),
        # 0 stands for the default, as in llama.cpp.
        scale=metadata.real(f"{prefix}.expert_weights_scale", 1.0) or 1.0,
    )


def _same_in_all(metadata: Metadata, key: str, blocks: int, default: int | None = None) -> int:
    """A number that may be given once or for every block, and is the same in all of them. Raises UnsupportedModelError if it is not."""
    numbers = metadata.per_layer(key, blocks, default)
    for layer, number in enumerate(numbers):
        if number != numbers[0]:
            raise UnsupportedModelError(
                f"{metadata.path}: {key} is {numbers[0]} in layer 0 and {number} in layer {layer}; supported is one number for all layers"
            )
    return numbers[0]
