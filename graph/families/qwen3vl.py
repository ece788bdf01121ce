"""The `qwen3vl` and `qwen3vlmoe` architectures: the text part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprgraph.graph.families.qwen2vl import without_axes
from aprgraph.graph.families.qwen3 import Qwen3
from aprgraph.graph.families.qwen3moe import Qwen3Moe


class Qwen3Vl(Qwen3):
    """Qwen 3 VL, the text part (arXiv:2511.21631): Qwen 3 whose RoPE divides among the axes of an image.

    What the first layers are given of an image is nothing in a text.
    """

    architecture = "qwen3vl"
    hf_classes = "Qwen3VLForConditionalGeneration"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the axes of RoPE."""
        return without_axes(fields)


class Qwen3VlMoe(Qwen3Moe):
    """Qwen 3 VL mixtures of experts, the text part (arXiv:2511.21631): Qwen 3 with experts, whose RoPE divides among the axes of
    an image.
    """

    architecture = "qwen3vlmoe"
    hf_classes = "Qwen3VLMoeForConditionalGeneration"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_transposed = ("moe_expert_gate", "moe_expert_out")
    rope_base = 10000.0

    @classmethod
    def is_transposed(cls, slot: str, dims: tuple[int, ...], config: Mapping[str, Any]) -> bool:
        """Published experts have the rows of x first; transformers saves them the other way round, and reads both by their dims."""
        rows, hidden = config.get("moe_intermediate_size"), config.get("hidden_size")
        if not isinstance(rows, int) or not isinstance(hidden, int):
            return super().is_transposed(slot, dims, config)
        return slot in cls.hf_transposed and dims[-2:] != ((2 * rows, hidden) if slot == cls.hf_transposed[0] else (hidden, rows))

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the axes of RoPE."""
        return without_axes(fields)
