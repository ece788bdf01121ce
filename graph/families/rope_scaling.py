"""RoPE's frequencies: the base, and how they are scaled for a longer context (linear, YaRN, LongRoPE)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.ops.rope import EVERY_PAIR

_KINDS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True)
class Rope:
    """Pair i of ``dims`` / 2 turns by position · base^(-2i / dims), times ``scale`` as far as ``ramp`` says.

    Pairs up to the first number of ``ramp`` are not scaled, those from the second on are, with a line between. cos and
    sin are multiplied by ``magnitude``.
    """

    dims: int
    base: float
    scale: float = 1.0
    ramp: tuple[float, float] = EVERY_PAIR
    magnitude: float = 1.0


def read_rope(
    metadata: Metadata,
    prefix: str,
    head_size: int,
    default_base: float,
    original_context: int,
    *,
    whole_pairs: bool = True,
    magnitude_in_scale: bool = False,
) -> Rope:
    """Read and check the RoPE of the layers without a sliding window. Raises ModelError or UnsupportedModelError.

    ``whole_pairs``: YaRN's bounds are rounded to whole pairs, the lower one down and the upper one up.
    ``magnitude_in_scale``: a file that has `yarn_log_multiplier` means the scale of the scores by it, and no magnitude.
    """
    where = metadata.path
    dims = metadata.positive(f"{prefix}.rope.dimension_count", head_size)
    if dims % 2 or dims > head_size:
        raise ModelError(
            f"{where}: {metadata.own_name(f'{prefix}.rope.dimension_count')} is {dims}, expected an even number of at most the "
            f"head size {head_size}"
        )
    base = read_base(metadata, metadata.first_of(f"{prefix}.rope.freq_base", f"{prefix}.rope.global.freq_base"), default_base)
    kind = metadata.text(f"{prefix}.rope.scaling.type", "linear")
    if kind not in _KINDS:
        raise UnsupportedModelError(
            f"{where}: {metadata.own_name(f'{prefix}.rope.scaling.type')} is {shown(kind)}; supported are {', '.join(_KINDS)}"
        )
    magnitude = _positive(metadata, f"{prefix}.rope.scaling.attn_factor", 1.0)
    if kind in ("none", "longrope"):  # LongRoPE's factors are a tensor
        return Rope(dims, base, magnitude=magnitude)
    factor = _read_factor(metadata, prefix)
    if kind == "linear":
        return Rope(dims, base, 1.0 / factor, magnitude=magnitude)
    ramp = _yarn_ramp(metadata, prefix, dims, base, original_context, whole_pairs=whole_pairs)
    if not (magnitude_in_scale and metadata.real(f"{prefix}.rope.scaling.yarn_log_multiplier", 0.0)):
        magnitude *= _yarn_magnitude(metadata, prefix, factor)
    return Rope(dims, base, 1.0 / factor, ramp, magnitude)


def read_sliding_rope(metadata: Metadata, prefix: str, dims: int, default_base: float) -> Rope:
    """RoPE of the layers with a sliding window: not scaled, of ``dims`` elements of each head. Raises ModelError."""
    key = metadata.first_of(f"{prefix}.rope.freq_base_swa", f"{prefix}.rope.local.freq_base")
    return Rope(dims, read_base(metadata, key, default_base))


def read_base(metadata: Metadata, key: str, default: float) -> float:
    """A base of RoPE. Raises ModelError.

    Beside `freq_base` and `freq_base_swa` there are the names that Ollama gave them, `global.freq_base` and
    `local.freq_base`.
    """
    base = metadata.real(key, default)
    if base <= 0:
        raise ModelError(f"{metadata.path}: {metadata.own_name(key)} is {base}, expected a positive number")
    return base


def _read_factor(metadata: Metadata, prefix: str) -> float:
    """The factor by which the context was extended.

    As llama.cpp reads it: a factor without a type means linear, 0 means 1, and older files call it `rope.scale_linear`.
    """
    kind_key, key, old_key = (f"{prefix}.rope.{name}" for name in ("scaling.type", "scaling.factor", "scale_linear"))
    if key not in metadata and old_key in metadata:
        key = old_key
    factor = metadata.real(key, None if kind_key in metadata else 0.0)
    if factor == 0:
        return 1.0
    if factor < 0 or not math.isfinite(1.0 / factor):
        raise ModelError(f"{metadata.path}: {metadata.own_name(key)} is {factor}, expected a positive number")
    return factor


def _positive(metadata: Metadata, key: str, default: float) -> float:
    value = metadata.real(key, default)
    if value <= 0:
        raise ModelError(f"{metadata.path}: {metadata.own_name(key)} is {value}, expected a positive number")
    return value


def _yarn_ramp(metadata: Metadata, prefix: str, dims: int, base: float, original_context: int, *, whole_pairs: bool) -> tuple[float, float]:
    """The pairs between which YaRN (Peng et al. 2023, arXiv:2309.00071, section 3.2) goes from no scaling to full.

    A pair that makes `beta_fast` turns over the original context is not scaled, one that makes `beta_slow` is.
    """
    scaling = f"{prefix}.rope.scaling"
    fast, slow = (  # under llama.cpp's name, or Ollama's
        _positive(metadata, metadata.first_of(f"{scaling}.yarn_beta_{name}", f"{scaling}.beta_{name}"), default)
        for name, default in (("fast", 32.0), ("slow", 1.0))
    )
    if base == 1:
        raise ModelError(
            f"{metadata.path}: {metadata.own_name(f'{prefix}.rope.freq_base')} is 1, with which YaRN cannot tell frequencies apart"
        )

    def pair_with(turns: float) -> float:
        return dims * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair_with(fast), pair_with(slow)
    if whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    start, end = max(first, 0), min(last, dims - 1)
    # As both llama.cpp and transformers avoid a division by zero.
    return float(start), max(float(end), start + 0.001)


def _yarn_magnitude(metadata: Metadata, prefix: str, factor: float) -> float:
    """YaRN's temperature of the softmax, put into cos and sin: 0.1 · ln(factor) + 1 (section 3.3)."""
    multiplier = metadata.real(f"{prefix}.rope.scaling.yarn_log_multiplier", 0.0)
    return temperature(factor, 1.0) / (temperature(factor, multiplier) if multiplier else 1.0)


def temperature(factor: float, strength: float) -> float:
    """YaRN's temperature for a context that became ``factor`` times as long."""
    return 1.0 if factor <= 1 else 0.1 * strength * math.log(factor) + 1.0
