"""The `granite` architecture: the dense models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.llama import Llama
from aprgraph.graph.families.numbers import flag, real

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class Granite(Llama):
    """Granite 3, and the dense models of Granite 4 (arXiv:2405.04324): embedding, scores, what is added to the residual
    stream, and logits are scaled.
    """

    architecture = "granite"
    hf_classes = "GraniteForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    #: Whether q and k get RoPE at all. That is what the key means in this family.
    has_rope = flag("rope.scaling.finetuned", None, True)
    embedding_scale = real("embedding_scale", "embedding_multiplier", 1.0)
    scale = real("attention.scale", "attention_multiplier", lambda f: f.head_size**-0.5)
    residual_scale = real("residual_scale", "residual_multiplier", 1.0)
    #: What logits are divided by.
    logit_scale = real("logit_scale", "logits_scaling", 1.0)

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The embedding, scaled."""
        return g.embed("embedding", table, scale=self.embedding_scale)

    def rope_angles(self, g: GraphBuilder) -> None:
        """The RoPE angles, unless the model has no RoPE."""
        if self.has_rope:
            super().rope_angles(g)

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """RoPE, unless the model has none."""
        return super().apply_rope(g, x, layer) if self.has_rope else x

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """As in Llama, with a scale on what is added to the residual stream."""
        out = self.attention(g, g.norm("attn_norm", x), layer)
        x = g.add("post_attn_residual", x, g.inner("attn_out_scaled", "scale", out, factor=self.residual_scale))
        out = self.feed_forward(g, g.norm("ffn_norm", x), layer)
        return g.add("post_ffn_residual", x, g.inner("ffn_out_scaled", "scale", out, factor=self.residual_scale))

    def logits(self, g: GraphBuilder, x: str) -> str:
        """The logits, divided by ``logit_scale``."""
        return g.apply("lm_head", "scale", g.head("lm_head_raw", x), factor=1 / self.logit_scale)
