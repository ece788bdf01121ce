"""The `qwen2vl` architecture: the text part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprgraph.graph.families.qwen2 import Qwen2

#: Where config.json describes RoPE, and what it says of the axes of an image.
_PLACES, _OF_AXES = ("rope_parameters", "rope_scaling"), ("mrope_section", "mrope_interleaved")
#: What files call RoPE that divides among axes, and is not stretched.
_KINDS = {"mrope": "default"}


def without_axes(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a config.json without how RoPE divides among the axes of an image (M-RoPE, arXiv:2409.12191).

    In a text all axes have the same positions, so that it is plain RoPE.
    """
    made = dict(fields)
    for place in _PLACES:
        if isinstance(made.get(place), dict):
            rope = {name: value for name, value in made[place].items() if name not in _OF_AXES}
            made[place] = {
                name: _KINDS.get(value, value) if name in ("type", "rope_type") and isinstance(value, str) else value
                for name, value in rope.items()
            }
    return made


class Qwen2Vl(Qwen2):
    """Qwen 2 VL and Qwen 2.5 VL, the text part (arXiv:2409.12191): Qwen 2 whose RoPE divides among the axes of an image."""

    architecture = "qwen2vl"
    hf_classes = "Qwen2VLForConditionalGeneration Qwen2_5_VLForConditionalGeneration"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the axes of RoPE."""
        return without_axes(fields)
