"""The fields of config.json, translated into GGUF's keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.families import Family
from aprgraph.graph.families.base import MAX_LAYERS
from aprgraph.graph.families.numbers import Number, names_of_fields, value_of_fields
from aprgraph.graph.families.recurrent import RecurrentLayers
from aprgraph.graph.families.window import CheckpointWindows, Windows
from aprgraph.graph.metadata import ListValue
from aprgraph.graph.sources.checkpoint.config_class import MLP_KINDS, kind_of, leading_dense, text_config
from aprgraph.graph.sources.checkpoint.config_defaults import (
    ALIASES,
    CLASS_CONTEXT,
    CLASS_DEFAULTS,
    CLASS_KEYS,
    CLASS_ROPE,
    HARMLESS,
    NEUTRAL,
    NULL,
    OTHER_KEYS,
)
from aprgraph.graph.sources.checkpoint.config_reads import PARTIAL_ROPE, READ_BY, reads, require_flags, require_rope_kind, require_values
from aprgraph.graph.sources.checkpoint.config_rope import FIELDS, translate_rope
from aprgraph.graph.sources.checkpoint.config_windows import CHUNK_FIELD, PERIOD, translate_windows
from aprgraph.graph.sources.checkpoint.config_windows import FIELDS as WINDOW_FIELDS

#: How many elements of a head RoPE turns.
_TURNED = "qk_rope_head_dim"
#: Lists of layers, each with the field by which classes make it where there is none.
_BY_INTERVAL = {"no_rope_layers": "no_rope_layer_interval", "moe_layers": "interleave_moe_layer_step"}
#: The number of layers, and lists with an entry for each are made of it.
_LAYERS = ("num_hidden_layers", "n_layer")
_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function", "activation")
#: Nobody writes these where they have the class's own value.
_UNDISPUTED = ("tie_word_embeddings",)
_EMPTY: tuple[object, ...] = (None, False, 0, "", [], {})


@dataclass
class Translated:
    """``values`` by GGUF's key, the ``fields`` that say them, ``factors`` that are tensors in GGUF, and ``notices``."""

    values: dict[str, object] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    factors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def _declared(family: type[Family]) -> list[tuple[str, str]]:
    """Fields of config.json with the keys that the family declares for them, without the architecture."""
    numbers = [reading for reading in family.readings().values() if isinstance(reading, Number)]
    return [(number.hf, number.gguf) for number in numbers if number.hf is not None]


def declared_fields(family: type[Family]) -> dict[str, str]:
    """By key of GGUF the field of config.json that a family declares for it."""
    return {_whole(family, key): name for name, key in _declared(family)}


def _without_share(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without the share of each head that RoPE turns, where another field says how many elements that are."""
    share = "partial_rotary_factor"
    inner = {name: config[name] for name in ("rope_parameters", "rope_scaling") if isinstance(config.get(name), dict)}
    plain = {name: {key: value for key, value in fields.items() if key != share} for name, fields in inner.items()}
    return {**{name: value for name, value in config.items() if name != share}, **plain}


def _whole(family: type[Family], key: str) -> str:
    """A key of GGUF with the architecture in front, where it has that."""
    return key if key in family.bare_keys else f"{family.architecture}.{key}"


def _require_few_layers(config: Mapping[str, Any], where: Path) -> None:
    """Raise ModelError for more layers than any model has: families make lists as long."""
    for name in _LAYERS:
        layers = config.get(name)
        if isinstance(layers, int) and layers > MAX_LAYERS:
            raise ModelError(f"{where}: field {name!r} is {shown(layers)}, expected at most {MAX_LAYERS}; download the file again")


class Translator:
    """Translates a config.json of a family: ``translate`` once."""

    def __init__(self, family: type[Family], config: Mapping[str, Any], where: Path) -> None:
        self._family, self._where = family, where
        text = text_config(config)
        _require_few_layers(text, where)
        self._config = dict(family.made_fields(text))
        self._done = {*HARMLESS}
        self._found = Translated()
        self._defaulted: list[str] = []
        self._kind = kind_of(config)
        self._declared_names = {name for name, _ in _declared(family)}
        if MLP_KINDS in self._config:
            self._config.pop(ALIASES[MLP_KINDS], None)
        if self._kind == "llama4_text" and self._config.get("no_rope_layers") == []:
            self._config.pop("no_rope_layers")  # which the class takes as if it were not there
        for layers, interval in _BY_INTERVAL.items():
            if isinstance(self._config.get(layers), list):
                self._config.pop(interval, None)  # by which the class makes that list where there is none
        if self._kind == "deepseek_v2" and self._config.get("topk_method", "greedy") == "greedy":
            self._config |= dict.fromkeys(("n_group", "topk_group"), 1)  # which the class leaves aside then
        require_flags(config, where)
        require_flags(self._config, where)
        self._ignored = [f"{name} is {shown(self._config.pop(name))}" for name in self._unread()]
        require_values(self._config, self._kind, where)
        for name, value in CLASS_DEFAULTS.get(self._kind, {}).items():
            other = ALIASES.get(name)
            if name not in self._config and (other is None or other not in self._config) and not self._is_in_rope(name):
                self._config[name] = value
                if name not in _UNDISPUTED:
                    self._defaulted.append(f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}")
        self._default_rope()

    def _default_rope(self) -> None:
        """RoPE's stretching and the context before it, where the class has its own."""
        rope = self._config.get("rope_parameters") or self._config.get("rope_scaling")
        default = CLASS_ROPE.get(self._kind)
        if default is not None and self._config.get("rope_parameters") is None and not rope:
            self._config["rope_parameters"] = dict(default)
            self._defaulted.append(f"rope_parameters = {json.dumps(default)}")
        original, context = "original_max_position_embeddings", CLASS_CONTEXT.get(self._kind)
        kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
        if context is not None and kind not in (None, "default") and self._config.get(original) is None:
            self._config[original] = context
            self._defaulted.append(f"{original} = {context}")

    def _unread(self) -> list[str]:
        """Fields that the class does not read, without those that change nothing."""
        there = [name for name in READ_BY if name in self._config and not reads(self._kind, name)]
        for name in [one for one in there if self._is_usual(one)]:
            self._config.pop(name)
            there.remove(name)
        return there

    def _is_usual(self, name: str) -> bool:
        """Whether a field that the class does not read says what the class does, or what the one says that it reads in its place."""
        value, does = (
            self._config[name],
            {
                "norm_topk_prob": getattr(self._family, "normalises", False),
                "rope_interleave": self._family.hf_pairing == "interleaved",
            },
        )
        if name in does:
            return value is None or value == does[name]
        if value in (*_EMPTY, *NEUTRAL.get(name, ())):
            return True
        return name in _ACTIVATIONS and any(self._config[name] == self._config.get(other) for other in _ACTIVATIONS if other != name)

    def _is_in_rope(self, name: str) -> bool:
        """Whether a field of RoPE is said by `rope_parameters` already."""
        rope = self._config.get("rope_parameters")
        return name in FIELDS and isinstance(rope, dict) and bool(rope) and (name != "partial_rotary_factor" or name in rope)

    def translate(self) -> Translated:
        """All keys, with the fields that say them. Raises ModelError."""
        found, architecture = self._found, self._family.architecture
        found.values["general.architecture"], found.fields["general.architecture"] = architecture, "architectures"
        self._numbers()
        for key, value in CLASS_KEYS.get(self._kind, {}).items():
            self._put(key, value, "model_type")
        self._rope()
        self._windows()
        self._scales()
        self._rest()
        if self._defaulted:
            found.notices += (f"{self._where.name} leaves out what the class of transformers then takes: {', '.join(self._defaulted)}",)
        if self._ignored:
            kind = f"the class of transformers that {self._where.name} names ({self._kind})"
            found.notices += (f"{', '.join(self._ignored)}: ignored, as {kind} does not read it",)
        return found

    def _put(self, key: str, value: object, name: str) -> None:
        if isinstance(value, list):
            value = ListValue([element.encode() if isinstance(element, str) else element for element in value])
        whole = _whole(self._family, key)
        if value is not None and whole not in self._found.values:
            self._found.values[whole], self._found.fields[whole] = value, name

    def _numbers(self) -> None:
        """What the family declares, and other fields that have a key in GGUF."""
        for name, key in (*_declared(self._family), *OTHER_KEYS.items()):
            spelt = name if name in self._config else ALIASES.get(name, name)
            self._done |= {name, spelt, *names_of_fields(name)}
            value = value_of_fields(spelt, self._config.get)
            if spelt == MLP_KINDS and value is not None:
                value = self._leading_dense(value)
            if value is None and spelt in self._config:
                value = NULL.get(spelt)
            if value not in NEUTRAL.get(spelt, ()):
                self._put(key, value, spelt)

    def _leading_dense(self, kinds: object) -> int:
        count = leading_dense(kinds)
        if count is None:
            raise UnsupportedModelError(
                f"{self._where}: {MLP_KINDS} is {shown(kinds)}; supported are dense layers before those with experts"
            )
        return count

    def _head_size(self) -> int:
        """Of how many elements of a head RoPE turns ``partial_rotary_factor``."""
        if _TURNED in self._declared_names:
            self._done |= {"head_dim", "qk_head_dim"}
            turned = self._config.get(_TURNED)
            return turned if isinstance(turned, int) else 0
        size, hidden, heads = (self._config.get(name) for name in ("head_dim", "hidden_size", "num_attention_heads"))
        size = self._config.get("global_head_dim", size)
        if isinstance(size, int):
            return size
        return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else 0

    def _rope(self) -> None:
        self._done |= {*FIELDS}
        whole = bool(getattr(self._family, "whole_pairs", True))
        partial = self._kind in PARTIAL_ROPE or self._kind not in CLASS_DEFAULTS
        require_rope_kind(self._config, self._kind, self._where)
        config = self._config if _TURNED not in self._declared_names else _without_share(self._config)
        unit = getattr(self._family, "log_multiplier", None)
        own = bool(getattr(self._family, "hf_magnitudes", False))
        rope = translate_rope(config, self._where, self._head_size(), whole, partial, unit, own_magnitudes=own)
        self._ignored += rope.ignored
        self._found.notices += rope.notices
        for key, value in rope.values.items():
            self._put(key, value, rope.fields[key])
        self._found.factors = rope.factors

    def _windows(self) -> None:
        """The window, unless it is switched off, and the layers that have it."""
        self._done |= {*WINDOW_FIELDS, *([CHUNK_FIELD] if self._family.has_chunks() else [])}
        private = f"_{PERIOD}"  # which transformers writes, and none of its classes reads
        if self._config.get("layer_types") is None and self._config.get(private) not in (None, self._config.get(PERIOD)):
            self._ignored.append(f"{private} is {shown(self._config[private])}")
        readings = self._family.readings()
        windows = readings.get("windows")
        own = windows if isinstance(windows, (Windows, CheckpointWindows)) else None
        kinds = [kind for reading in readings.values() if isinstance(reading, RecurrentLayers) for kind in reading.kinds]
        found = translate_windows(self._config, self._kind, self._where, own, kinds)
        for key, (value, name) in found.items():
            self._put(key, value, name)

    def _scales(self) -> None:
        """What has another form in GGUF: gemma's divisor of scores, the activation, attention to later positions."""
        config = self._config
        self._done |= {"query_pre_attn_scalar", "use_bidirectional_attention", *_ACTIVATIONS}
        divisor = config.get("query_pre_attn_scalar")
        if divisor is not None:
            if not isinstance(divisor, (int, float)) or isinstance(divisor, bool) or divisor <= 0:
                raise ModelError(f"{self._where}: query_pre_attn_scalar is {shown(divisor)}, expected a positive number; correct it")
            self._put("attention.scale", divisor**-0.5, "query_pre_attn_scalar")
        if config.get("is_causal", True) is False:
            raise UnsupportedModelError(
                f"{self._where}: is_causal is false; supported is attention to earlier positions alone, as the ways in which transformers "
                "computes attention differ in what they make of it"
            )
        bidirectional = config.get("use_bidirectional_attention") not in (*_EMPTY, *NEUTRAL["use_bidirectional_attention"])
        if getattr(self._family, "symmetric_windows", False):
            self._put("attention.causal", not bidirectional, "use_bidirectional_attention")
        elif bidirectional:
            if self._kind in CLASS_DEFAULTS:
                raise UnsupportedModelError(
                    f"{self._where}: use_bidirectional_attention is {shown(config['use_bidirectional_attention'])}; supported for "
                    f"{self._kind} is false; what the class then does to the mask is not applied here"
                )
            self._put("attention.causal", False, "use_bidirectional_attention")
        if self._kind in ("gpt2", "gpt_bigcode") and not config.get("scale_attn_weights", True):
            self._put("attention.scale", 1.0, "scale_attn_weights")
        activation = next((name for name in _ACTIVATIONS if config.get(name)), None)
        if activation is not None:
            self._put("hidden_activation", config[activation], activation)

    def _rest(self) -> None:
        """Fields that nothing here knows."""
        for name, value in self._config.items():
            if name in self._done or value in _EMPTY or value in NEUTRAL.get(name, ()):
                continue
            plain = value if isinstance(value, (int, float, str)) else json.dumps(value)
            self._put(name, plain, name)
