"""Windows as config.json describes them, in GGUF's keys: how wide they are, and which layers have one, or no attention.

What the classes of transformers 5.24 make of `sliding_window`, or `attention_chunk_size`, `use_sliding_window`,
`max_window_layers` and `layer_types`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.families.base import MAX_LAYERS
from aprgraph.graph.families.window import CheckpointWindows, Windows

#: How many positions a chunk has, in classes whose windows are chunks.
CHUNK_FIELD = "attention_chunk_size"
FIELDS = (
    "sliding_window", "use_sliding_window", "layer_types", "sliding_window_pattern", "_sliding_window_pattern", "max_window_layers",
)  # fmt: skip
_FULL, _SLIDING, _CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
_RECURRENT = "attention.recurrent_layers"
#: Every how many layers one has no window, where there are no `layer_types`.
PERIOD = "sliding_window_pattern"
#: Classes that give every layer the window, whatever `layer_types` says.
_IN_ALL = ("mistral", "mixtral", "ministral3", "qwen3_moe", "phi3", "phimoe")
#: Where there are no `layer_types`: classes in which layers have the window from `max_window_layers` on, and in which
#: every second layer before `max_window_layers` has it.
_FROM_A_LAYER_ON, _EVERY_SECOND = ("qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text", "dots1"), ("qwen2_moe",)
_MAX_WINDOW_LAYERS = 28
#: Classes in which a window that no layer has still decides which layers have RoPE.
_TURNS_BY_WINDOW = ("exaone4", "exaone_moe", "afmoe")
#: Classes in which RoPE decides then: layers have the window that have it, or that do not.
_BY_ROPE = {"smollm3": False, "llama4_text": True}


def translate_windows(
    config: Mapping[str, Any], kind: str, where: Path, windows: Windows | CheckpointWindows | None, recurrent: Collection[str] = ()
) -> dict[str, tuple[object, str]]:
    """The values of keys without the architecture, each with the field that says it.

    ``kind`` is the ``model_type``; ``windows`` are those that the family's layers can have; ``recurrent`` are the
    names in `layer_types` of layers that have no attention. Raises ModelError or UnsupportedModelError.
    """
    field = CHUNK_FIELD if windows is not None and windows.chunked else "sliding_window"
    window = config.get(field)
    # SmolLM3 asks the switch only for the kinds of layers, where they are not given; its masks go by these alone.
    has_switch = ("use_sliding_window" in config or kind.startswith(("qwen", "smollm3"))) and not (
        kind == "smollm3" and config.get("layer_types") is not None
    )
    is_in_none = kind not in _TURNS_BY_WINDOW
    flags = _flags(config, kind, where, recurrent, _CHUNKED if field == CHUNK_FIELD else _SLIDING)
    others: dict[str, tuple[object, str]] = {}
    if recurrent and config.get("layer_types") is not None:
        others[_RECURRENT] = [one in recurrent for one in config["layer_types"]], "layer_types"
    if (has_switch and not config.get("use_sliding_window")) or not window or (is_in_none and flags is not None and not any(flags)):
        if window is None and field == CHUNK_FIELD and config.get("layer_types") is not None and any(flags or ()):
            raise ModelError(
                f"{where}: layer_types has layers of {_CHUNKED}, and {CHUNK_FIELD} is null, which transformers refuses; correct one"
            )
        return {_WINDOW: (0, field), **others}
    found: dict[str, tuple[object, str]] = {_WINDOW: (window, field), **others}
    if flags is not None and windows is not None:
        found[_PATTERN] = list(flags), "max_window_layers" if config.get("layer_types") is None else "layer_types"
    elif windows is not None:
        found[_PATTERN] = config.get(PERIOD), PERIOD
    return found


def _flags(config: Mapping[str, Any], kind: str, where: Path, recurrent: Collection[str], with_window: str) -> Sequence[bool] | None:
    """Whether each layer has the window; None where the family says it, or all have it."""
    kinds = config.get("layer_types")
    if kind in _IN_ALL:
        return None
    if kinds is None:
        return _usual_flags(config, kind)
    if not isinstance(kinds, list) or not all(isinstance(one, str) for one in kinds):
        raise ModelError(f"{where}: layer_types is {shown(kinds)}, expected the kind of each layer; correct it")
    known = {_FULL: False, with_window: True, **dict.fromkeys(recurrent, False)}
    unknown = next((one for one in kinds if one not in known), None)
    if unknown is not None:
        raise UnsupportedModelError(f"{where}: layer_types holds {shown(unknown)}; supported are {', '.join(known)}")
    return [known[one] for one in kinds]


def _usual_flags(config: Mapping[str, Any], kind: str) -> Sequence[bool] | None:
    """What the class takes where there are no `layer_types`."""
    layers, bound = config.get("num_hidden_layers"), config.get("max_window_layers", _MAX_WINDOW_LAYERS)
    if type(layers) is not int or type(bound) is not int or layers > MAX_LAYERS:  # an error of the numbers' own
        return None
    if kind in _FROM_A_LAYER_ON:
        return [layer >= bound for layer in range(layers)]
    if kind in _EVERY_SECOND:
        return [layer % 2 == 0 and layer < bound for layer in range(layers)]
    if kind in _BY_ROPE:
        without = _without_rope(config, layers)
        return without if without is None or not _BY_ROPE[kind] else [not one for one in without]
    return None


def _without_rope(config: Mapping[str, Any], layers: int) -> Sequence[bool] | None:
    """The layers that have no RoPE."""
    has_rope, interval = config.get("no_rope_layers"), config.get("no_rope_layer_interval", 4)
    if isinstance(has_rope, list) and len(has_rope) >= layers:
        return [not one for one in has_rope[:layers]]
    return [(layer + 1) % interval == 0 for layer in range(layers)] if type(interval) is int and interval > 0 else None
