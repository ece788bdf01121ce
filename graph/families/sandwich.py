"""Norms on both sides of attention and of the feed-forward network (Ding et al. 2021, arXiv:2105.13290)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class SandwichNorms(Decoder):
    """A decoder that also normalises what is added to the residual stream."""

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention, then an RMSNorm."""
        return g.norm("attn_post_norm", super().attention(g, x, layer))

    def feed_forward(self, g: GraphBuilder, x: str, layer: int) -> str:
        """The feed-forward network, then an RMSNorm."""
        return g.norm("ffn_post_norm", super().feed_forward(g, x, layer))
