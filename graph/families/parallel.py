"""Attention and feed-forward network side by side (GPT-J; Wang and Komatsuzaki 2021): both read the same norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class ParallelBlock(Decoder):
    """A decoder in whose layers the feed-forward network does not wait for attention."""

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """One norm for both; their sum is added to the residual stream."""
        normed = g.norm("attn_norm", x)
        both = g.inner("parallel_sum", "add", self.attention(g, normed, layer), self.feed_forward(g, normed, layer))
        return g.add("post_ffn_residual", x, both)
