"""The `glm4` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.sandwich import SandwichNorms

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Glm4(SandwichNorms):
    """GLM-4-0414 (arXiv:2406.12793): norms on both sides, RoPE of neighbours in half of each head, gate and up as one tensor."""

    architecture = "glm4"
    hf_classes = "Glm4ForCausalLM"
    hf_names = {"attn_post_norm": "post_self_attn_layernorm", "ffn_post_norm": "post_mlp_layernorm"}
    pairing = hf_pairing = "interleaved"

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """One product holds the gate's columns first, then those of up."""
        return g.gate_and_up_in_one(x, self.ffn[layer])
