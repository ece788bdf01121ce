"""The `glm4` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.numbers import Reading
from aprgraph.graph.families.sandwich import SandwichNorms

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class Glm4(SandwichNorms):
    """GLM-4-0414 (arXiv:2406.12793): norms on both sides, RoPE of neighbours in half of each head, gate and up as one
    tensor.
    """

    architecture = "glm4"
    hf_classes = "Glm4ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {"attn_post_norm": "post_self_attn_layernorm", "ffn_post_norm": "post_mlp_layernorm"}
    pairing = hf_pairing = "interleaved"
    #: Whether RoPE divides among the axes of an image. Conversion permutes q and k then, so that halves are paired.
    has_sections: Reading[bool] = Reading(lambda f: f.reads_sections())

    def reads_sections(self) -> bool:
        """Whether the model has M-RoPE: by the sections of the first two axes, as in llama.cpp."""
        key = self.key("rope.dimension_sections")
        sections = self.metadata.array(key).values() if key in self.metadata else []
        return len(sections) > 1 and all(isinstance(pairs, int) and pairs > 0 for pairs in sections[:2])

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """In a text, the axes of M-RoPE have the same positions, so it is plain RoPE."""
        return g.rope(x, self.angles_of(layer), "halves" if self.has_sections else self.row_order)

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """One matrix product gives the columns of gate, then those of up."""
        return g.gate_and_up_in_one(x, self.ffn[layer])
