"""The `smollm3` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import flags, number
from aprgraph.graph.families.window import CheckpointWindows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class SmolLM3(Decoder):
    """SmolLM3 (Hugging Face, 2025): Llama without RoPE in every fourth layer.

    GGUF has no key for which layers these are; config.json may name others.
    """

    architecture = "smollm3"
    hf_classes = "SmolLM3ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = "interleaved"
    windows = CheckpointWindows()
    interval = number("no_rope_layer_interval", "no_rope_layer_interval", 4)
    #: Whether q and k of a layer get RoPE, in spite of the field's name.
    has_rope = flags("no_rope_layers", "no_rope_layers", lambda f: [(layer + 1) % f.interval != 0 for layer in range(f.blocks)])

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """RoPE, or none (NoPE, arXiv:2305.19466)."""
        return super().apply_rope(g, x, layer) if self.has_rope[layer] else x
