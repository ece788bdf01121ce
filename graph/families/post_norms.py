"""Norms behind attention and the feed-forward network, and none before (Liu et al. 2022, arXiv:2111.09883)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class PostNorms(Decoder):
    """A decoder that normalises what is added to the residual stream, and not what attention and network read."""

    hf_names = {"attn_post_norm": "post_attention_layernorm", "ffn_post_norm": "post_feedforward_layernorm"}

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """The output of attention and of the network is normalised, then added to the residual stream."""
        x = g.add("post_attn_residual", x, g.norm("attn_post_norm", self.attention(g, x, layer)))
        return g.add("post_ffn_residual", x, g.norm("ffn_post_norm", self.feed_forward(g, x, layer)))
