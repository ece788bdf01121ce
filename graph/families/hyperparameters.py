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
    """In the letters of the stage table (see graph/stages.py).

    ``window`` is how many positions a sliding layer attends to, 0 if there is none; ``sliding`` says which layers slide, and
    ``sliding_rope`` what they turn q and k by. ``original_context`` is the context before any stretching.
    """

    layers: int
    context: int
    original_context: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_size: int
    eps: float
    scale: float
    embedding_scale: float
    rope: Rope
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

    layers = metadata.positive(key("block_count"))
    if layers > _MAX_LAYERS:
        raise ModelError(f"{where}: {key('block_count')} is {layers}, expected at most {_MAX_LAYERS}")
    hidden = metadata.positive(key("embedding_length"))
    heads = metadata.positive(key("attention.head_count"))
    kv_heads = metadata.positive(key("attention.head_count_kv"), heads)
    if heads > _MAX_HEADS or heads % kv_heads:
        raise ModelError(
            f"{where}: {heads} query heads ({key('attention.head_count')}) do not divide among {kv_heads} KV heads "
            f"({key('attention.head_count_kv')})"
        )
    head_size = _read_head_size(metadata, prefix, hidden, heads)
    eps = metadata.real(key("attention.layer_norm_rms_epsilon"))
    if eps < 0:
        raise ModelError(f"{where}: {key('attention.layer_norm_rms_epsilon')} is {eps}, expected a number of at least 0")
    context = metadata.positive(key("context_length"))
    original_context = metadata.positive(key("rope.scaling.original_context_length"), context)
    rope = read_rope(metadata, prefix, head_size, family.rope_base, original_context)
    window, sliding = _read_window(metadata, family, layers)
    sliding_rope = rope
    if window and family.window is not None and family.window.rope_base is not None:
        sliding_rope = Rope(rope.dims, read_base(metadata, key("rope.freq_base_swa"), family.window.rope_base))
    ffn = metadata.positive(key("feed_forward_length"))
    sizes = Sizes(layers, hidden, heads, head_size)
    return Hyperparameters(
        layers=layers,
        context=context,
        original_context=original_context,
        hidden=hidden,
        ffn=ffn,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        eps=eps,
        # 0 stands for the default, as in llama.cpp.
        scale=metadata.real(key("attention.scale"), 0.0) or family.attention_scale(sizes),
        embedding_scale=math.sqrt(hidden) if family.scaled_embedding else 1.0,
        rope=rope,
        window=window,
        sliding=sliding,
        sliding_rope=sliding_rope,
        experts=_read_experts(metadata, family, ffn),
    )


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
        if len(flags) != layers or not all(isinstance(flag, (bool, int)) for flag in flags):
            raise ModelError(
                f"{metadata.path}: {pattern_key} has {len(flags)} elements, expected true or false for each of {layers} layers"
            )
        return window, tuple(bool(flag) for flag in flags)
    period = metadata.positive(pattern_key, family.window.period)
    return window, tuple(period == 1 or (layer + 1) % period != 0 for layer in range(layers))


def _read_experts(metadata: Metadata, family: Family, ffn: int) -> ExpertSizes | None:
    prefix, declared = family.architecture, family.experts
    count_key, used_key = f"{prefix}.expert_count", f"{prefix}.expert_used_count"
    count = metadata.integer(count_key, 0) if declared is None or declared.optional else metadata.positive(count_key)
    if count == 0:
        return None
    if declared is None:
        raise UnsupportedModelError(f"{metadata.path}: {count_key} is {count}, but models of the family {prefix!r} have no experts")
    if not 0 < count <= _MAX_EXPERTS:
        raise ModelError(f"{metadata.path}: {count_key} is {count}, expected a number from 1 to {_MAX_EXPERTS}")
    used = metadata.positive(used_key)
    if used > count:
        raise ModelError(f"{metadata.path}: {used_key} is {used}, but there are {count} experts ({count_key}); expected at most that many")
    gating = metadata.integer(f"{prefix}.expert_gating_func", 0)
    if gating not in (0, 1):  # 0 and none: the default; 1: softmax
        raise UnsupportedModelError(f"{metadata.path}: {prefix}.expert_gating_func is {gating}; supported is 1, the softmax")
    default_ffn = max(ffn // used, 1) if declared.divides_ffn else ffn
    return ExpertSizes(
        count=count,
        used=used,
        ffn=metadata.positive(f"{prefix}.expert_feed_forward_length", default_ffn),
        shared_ffn=metadata.positive(f"{prefix}.expert_shared_feed_forward_length", ffn) if declared.shared else 0,
        normalise=metadata.flag(f"{prefix}.expert_weights_norm", declared.normalise),
        # 0 stands for the default, as in llama.cpp.
        scale=metadata.real(f"{prefix}.expert_weights_scale", 0.0) or 1.0,
    )
