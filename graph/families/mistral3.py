"""The `mistral3` architecture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import real
from aprgraph.graph.families.window import CheckpointWindows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class Mistral3(Decoder):
    """Mistral Small 3.1 and 3.2, Ministral 3, the text part (Mistral AI, 2025): Llama; in Ministral with YaRN, and
    with queries that grow with their position beyond the original context.
    """

    architecture = "mistral3"
    hf_classes = "Ministral3ForCausalLM Mistral3ForConditionalGeneration"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = "interleaved"
    windows = CheckpointWindows()
    #: By how much queries grow with the logarithm of their position; 0: they do not.
    temperature = real("attention.temperature_scale", "llama_4_scaling_beta", 0.0, least=0)

    def rope_angles(self, g: GraphBuilder) -> None:
        """The RoPE angles, and what the queries of each position are multiplied by."""
        super().rope_angles(g)
        if self.temperature:
            g.inner("query_temperature", "query_temperature", "positions", strength=self.temperature, span=self.original_context)

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """RoPE, then the scale of the queries."""
        x = super().apply_rope(g, x, layer)
        if x.name == "k" or not self.temperature:
            return x
        return replace(x, value=g.inner("q_scaled", "scale_rows", x.value, "query_temperature"))
