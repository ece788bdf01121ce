"""RoPE as config.json describes it, in GGUF's keys; and the factors that a GGUF file holds as tensors.

The fields are `rope_parameters` (transformers 5, perhaps by kind of layer), or `rope_theta`, `rope_scaling`,
`rope_local_base_freq` and `partial_rotary_factor` of earlier versions. The formulas are those of
modeling_rope_utils.py of transformers 5.24.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown

_OLD, _NEW = "rope_scaling", "rope_parameters"
FIELDS = (_NEW, _OLD, "rope_theta", "rope_local_base_freq", "partial_rotary_factor")
#: What transformers reads of each kind, beside what it reads of all.
_READ = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings", "attention_factor", "mscale", "mscale_all_dim",
             "truncate"),
    "longrope": ("factor", "long_factor", "short_factor", "original_max_position_embeddings", "attention_factor"),
    "proportional": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}  # fmt: skip
#: What a class of its own reads of LongRoPE, in place of `attention_factor`.
_MAGNITUDES = ("short_mscale", "long_mscale")
#: The context among them is that of the field outside, which is read.
_IN_ALL = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "llama_4_scaling_beta", "max_position_embeddings")
_ORIGINAL = "original_max_position_embeddings"
#: Numbers outside are slips, and would overflow on the way to float32.
_LEAST, _MOST = 1e-30, 1e30
#: What files divide a frequency by that is to be 0.
_STILL = 1e30


@dataclass
class RopeKeys:
    """``values`` by key without the architecture, ``fields`` that they come from, ``factors`` by the tensor's name."""

    values: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    factors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    #: The share of each head that is said to turn, where the class turns all of it.
    ignored: tuple[str, ...] = ()
    #: Sentences of what holds for long texts alone.
    notices: tuple[str, ...] = ()

    def put(self, key: str, value: Any, name: str) -> None:
        """Note a key, and the field that says it."""
        if value is not None:
            self.values[key], self.fields[key] = value, name


def translate_rope(
    config: Mapping[str, Any],
    where: Path,
    head_size: int,
    whole_pairs: bool,
    partial: bool,
    log_multiplier: float | None = None,
    *,
    own_magnitudes: bool = False,
) -> RopeKeys:
    """The keys of RoPE.

    ``whole_pairs``: whether the family rounds YaRN's bounds. ``partial``: whether the class can turn a part of each head.
    ``log_multiplier``: what the key `yarn_log_multiplier` holds for a `mscale_all_dim` of 1, where the family scales scores by it.
    ``own_magnitudes``: whether the class multiplies LongRoPE's cosines and sines by `short_mscale` and `long_mscale`, and by nothing else.

    Raises ModelError for what is no description of RoPE, and UnsupportedModelError for a kind that is not known.
    """
    name = _NEW if config.get(_NEW) else _OLD
    whole = _object(config.get(name) or {}, name, where)
    _require_one(whole, config, where)
    keys, given, prefix = RopeKeys(), whole, name
    if "full_attention" in whole:
        prefix = f"{name}.full_attention"
        given = _object(whole["full_attention"], prefix, where)
    theta = f"{prefix}.rope_theta" if given.get("rope_theta") is not None else "rope_theta"
    base = given.get("rope_theta") if given.get("rope_theta") is not None else config.get("rope_theta")
    keys.put("rope.freq_base", _number(base, theta, where), theta)
    _sliding(keys, whole, name, config, where)
    share = given.get("partial_rotary_factor")
    share_name = "partial_rotary_factor" if share is None else f"{prefix}.partial_rotary_factor"
    share = _number(config.get("partial_rotary_factor") if share is None else share, share_name, where)
    kind = given.get("rope_type", given.get("type"))
    if kind == "proportional":
        _proportional(keys, share, _number(given.get("factor"), f"{prefix}.factor", where), head_size)
        share = None
    if share is not None and share != 1 and not partial:
        if kind not in (None, "default"):
            raise UnsupportedModelError(
                f"{where}: {share_name} is {share:g} beside RoPE of the kind {shown(kind)}; supported is 1, as the class of the file "
                "turns whole heads"
            )
        keys.ignored, share = (f"{share_name} is {share:g}",), None
    dims = head_size if share is None else int(head_size * share)
    if dims != head_size:
        keys.put("rope.dimension_count", dims, share_name)
    stretch = _Stretch(keys, given, prefix, config, where, dims)
    stretch.own_magnitudes = own_magnitudes
    stretch.translate(whole.get("truncate", given.get("truncate")), whole_pairs, log_multiplier)
    return keys


def _proportional(keys: RopeKeys, share: float | None, factor: float | None, head_size: int) -> None:
    """The factors that leave all but the first pairs of a head as they are: as llama.cpp's converter writes them."""
    pairs, turned = head_size // 2, int((1 if share is None else share) * head_size // 2)
    keys.factors["rope_freqs.weight"] = np.array([factor or 1.0] * turned + [_STILL] * (pairs - turned), np.float32)


def _require_one(new: Mapping[str, Any], config: Mapping[str, Any], where: Path) -> None:
    """Raise ModelError where the fields of both versions of transformers describe RoPE, and not alike."""
    if not config.get(_NEW) or not config.get(_OLD):
        return
    theta, share = config.get("rope_theta"), config.get("partial_rotary_factor")

    def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
        usual = {"rope_theta": theta, "partial_rotary_factor": share, "rope_type": fields.get("type", "default")}
        return {name: value for name, value in {**usual, **fields}.items() if name != "type" and value is not None}

    old = _object(config[_OLD], _OLD, where)
    if plain(old) != plain(new):
        raise ModelError(
            f"{where}: {_NEW} and {_OLD} are both there and differ, {shown(new)} and {shown(old)}; keep the right one in a copy of the file"
        )


def _sliding(keys: RopeKeys, whole: Mapping[str, Any], name: str, config: Mapping[str, Any], where: Path) -> None:
    """The base of the layers with a sliding window."""
    prefix = f"{name}.sliding_attention"
    if "sliding_attention" not in whole:
        keys.put("rope.freq_base_swa", _number(config.get("rope_local_base_freq"), "rope_local_base_freq", where), "rope_local_base_freq")
        return
    sliding = _object(whole["sliding_attention"], prefix, where)
    kind = sliding.get("rope_type", "default")
    if kind != "default":
        raise UnsupportedModelError(f"{where}: {prefix}.rope_type is {shown(kind)}; supported is default, no stretching")
    keys.put("rope.freq_base_swa", _number(sliding.get("rope_theta"), f"{prefix}.rope_theta", where), f"{prefix}.rope_theta")


def _object(value: Any, name: str, where: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelError(f"{where}: {name} is {shown(value)}, expected an object; correct it")
    return value


def _number(value: Any, name: str, where: Path) -> float | None:
    """A number above zero, or None for what is not there. Raises ModelError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _LEAST <= value <= _MOST:
        raise ModelError(f"{where}: {name} is {shown(value)}, expected a positive number; correct it")
    return value


class _Stretch:
    """How RoPE was stretched for a longer context: ``given`` is what the fields named ``prefix`` hold."""

    def __init__(self, keys: RopeKeys, given: Mapping[str, Any], prefix: str, config: Mapping[str, Any], where: Path, dims: int) -> None:
        self._keys, self._given, self._prefix, self._config, self._where, self._dims = keys, given, prefix, config, where, dims
        self.own_magnitudes = False

    def translate(self, truncate: Any, whole_pairs: bool, log_multiplier: float | None) -> None:
        given = self._given
        kind = given.get("rope_type", given.get("type"))
        kind = "longrope" if kind == "su" else "default" if kind is None else kind
        if (growth := self._read("llama_4_scaling_beta")) is not None:
            self._put("attention.temperature_scale", growth, "llama_4_scaling_beta")
            self._put("rope.scaling.original_context_length", self._original(), _ORIGINAL)
        if kind == "dynamic" and (alpha := self._read("alpha")) is not None:
            self._put("rope.scaling.alpha", alpha, "alpha")
            return
        if kind == "dynamic":
            self._dynamic()
            return
        if not isinstance(kind, str) or kind not in _READ:
            raise UnsupportedModelError(f"{self._where}: {self._prefix}.rope_type is {shown(kind)}; supported are {', '.join(_READ)}")
        if kind == "default":
            return
        read = (*_IN_ALL, *_READ[kind], *(_MAGNITUDES if self.own_magnitudes and kind == "longrope" else ()))
        unread = next((name for name, value in given.items() if name not in read and value is not None), None)
        if unread is not None:
            raise UnsupportedModelError(
                f"{self._where}: {self._prefix}.{unread} is {shown(given[unread])}, which nothing here applies to the kind {kind}, so that "
                "the numbers would be wrong; if it changes nothing, take it out of a copy of the file"
            )
        if kind == "llama3":
            self._llama3()
        if kind in ("llama3", "proportional"):
            return
        self._put("rope.scaling.type", kind, "rope_type")
        if kind == "linear":
            self._put("rope.scaling.factor", self._needed("factor"), "factor")
        elif kind == "longrope":
            self._longrope()
        else:
            self._yarn(True if truncate is None else bool(truncate), whole_pairs, log_multiplier)

    def _put(self, key: str, value: Any, name: str) -> None:
        self._keys.put(key, value, f"{self._prefix}.{name}")

    def _read(self, name: str) -> float | None:
        return _number(self._given.get(name), f"{self._prefix}.{name}", self._where)

    def _needed(self, name: str) -> float:
        value = self._read(name)
        if value is None:
            raise ModelError(f"{self._where}: {self._prefix}.{name} is missing, expected a positive number; give it in the file")
        return value

    def _original(self) -> float:
        """The context before. Beside the other sizes, as in Phi-3, it counts first; else the context itself."""
        for value, name in (
            (self._config.get(_ORIGINAL), _ORIGINAL),
            (self._given.get(_ORIGINAL), f"{self._prefix}.{_ORIGINAL}"),
            (self._config.get("max_position_embeddings"), "max_position_embeddings"),
        ):
            number = _number(value, name, self._where)
            if number is not None:
                return number
        return self._needed(_ORIGINAL)

    def _factor(self, original: float) -> float:
        """The factor, or, where there is none, how much longer the context became."""
        factor = self._read("factor")
        context = _number(self._config.get("max_position_embeddings"), "max_position_embeddings", self._where)
        if factor is not None:
            return factor
        return self._needed("factor") if context is None else context / original

    def _llama3(self) -> None:
        """What each frequency is divided by: 1 for short waves, the factor for long ones, with a ramp between.

        Where both bounds are one, as in Llama 4 Scout, there is nothing between.
        """
        original, factor = self._original(), self._needed("factor")
        low, high = self._needed("low_freq_factor"), self._needed("high_freq_factor")
        if low > high:
            raise ModelError(f"{self._where}: {self._prefix}.low_freq_factor is {low}, expected at most high_freq_factor, {high}")
        base = self._keys.values.get("rope.freq_base", 10000.0)
        waves = 2 * math.pi * base ** (np.arange(0, self._dims, 2, dtype=np.float64) / max(self._dims, 1))
        turns = original / waves
        ramp = np.clip((turns - low) / (high - low), 0.0, 1.0) if low < high else np.where(turns < low, 0.0, 1.0)
        self._keys.factors["rope_freqs.weight"] = (1 / ((1 - ramp) / factor + ramp)).astype(np.float32)

    def _dynamic(self) -> None:
        """The base grows with a text that is longer than the context, and is the base itself up to there."""
        context, factor = self._config.get("max_position_embeddings"), self._needed("factor")
        given = self._config.get(_ORIGINAL) or self._given.get(_ORIGINAL)
        if given is not None and given != context:
            raise UnsupportedModelError(
                f"{self._where}: {self._prefix}.rope_type is 'dynamic', and {_ORIGINAL} is {shown(given)}; supported is the context itself"
            )
        what = "the context" if not isinstance(context, int) else f"{context} positions"
        self._keys.notices = (
            f"{self._prefix}.rope_type is 'dynamic' (factor {factor:g}), which is left out: it changes RoPE in texts of more than {what}",
        )

    def _longrope(self) -> None:
        original = self._original()
        self._put("rope.scaling.original_context_length", original, _ORIGINAL)
        for part in ("long", "short"):
            name = f"{part}_factor"
            values = self._given.get(name)
            if not isinstance(values, list) or len(values) != self._dims // 2:
                raise ModelError(
                    f"{self._where}: {self._prefix}.{name} is {shown(values)}, expected {self._dims // 2} positive numbers; correct it"
                )
            factors = [_number(value, f"an element of {self._prefix}.{name}", self._where) or 0.0 for value in values]
            self._keys.factors[f"rope_factors_{part}.weight"] = np.array(factors, np.float32)
        if self.own_magnitudes:
            self._put("rope.scaling.attn_factor", self._own_magnitude(), _MAGNITUDES[0])
            return
        magnitude, factor = self._read("attention_factor"), self._factor(original)
        if magnitude is None:
            magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
        self._put("rope.scaling.attn_factor", magnitude, "attention_factor")

    def _own_magnitude(self) -> float:
        """What the class multiplies cosines and sines by. Raises UnsupportedModelError where that depends on the length of the text."""
        short, long = map(self._needed, _MAGNITUDES)
        if short != long:
            raise UnsupportedModelError(
                f"{self._where}: {self._prefix}.short_mscale is {short} and long_mscale {long}; supported is one number for both"
            )
        return short

    def _yarn(self, truncate: bool, whole_pairs: bool, log_multiplier: float | None) -> None:
        if truncate != whole_pairs:
            raise UnsupportedModelError(
                f"{self._where}: {self._prefix}.truncate is {str(truncate).lower()}; supported in this family is {str(whole_pairs).lower()}"
            )
        original, factor = self._original(), self._needed("factor")
        self._put("rope.scaling.original_context_length", original, _ORIGINAL)
        self._put("rope.scaling.factor", factor, "factor")
        for name in ("beta_fast", "beta_slow"):
            self._put(f"rope.scaling.yarn_{name}", self._read(name), name)
        magnitude, one, all_dims = (self._read(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
        usual = _temperature(factor, 1.0)
        if magnitude is None:
            magnitude = _temperature(factor, one) / _temperature(factor, all_dims) if one and all_dims else usual
        if log_multiplier is not None and all_dims:
            self._put("rope.scaling.yarn_log_multiplier", log_multiplier * all_dims, "mscale_all_dim")
            usual = 1.0
        # The key holds what the usual temperature is multiplied by.
        if not math.isclose(magnitude, usual, rel_tol=1e-12):
            self._put("rope.scaling.attn_factor", magnitude / usual, "attention_factor")


def _temperature(factor: float, strength: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * strength * math.log(factor) + 1.0
