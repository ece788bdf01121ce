"""The `olmo2` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.numbers import Reading
from aprgraph.graph.families.post_norms import PostNorms
from aprgraph.graph.families.rope_scaling import Rope, read_sliding_rope
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprgraph.graph.builder import GraphBuilder, Heads


class Olmo2(PostNorms):
    """OLMo 2 and 3 (arXiv:2501.00656): norms behind attention and feed-forward network, none before, and norms of whole
    rows of q and k.

    OLMo 3 has a window in all layers but every fourth, and stretches RoPE in these alone.
    """

    architecture = "olmo2"
    hf_classes = "Olmo2ForCausalLM Olmo3ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    absent_keys = ("attention.sliding_window",)
    windows = Windows(period=4)
    sliding_rope: Reading[Rope] = Reading(
        lambda f: read_sliding_rope(f.metadata, f.architecture, f.rope.dims, f.rope.base) if any(f.windows) else f.rope
    )

    def project(self, g: GraphBuilder, x: str, layer: int) -> Sequence[Heads]:
        """The heads of q, k and v, after an RMSNorm over all heads of q and another over those of k."""
        q, k, v = super().project(g, x, layer)
        return g.norm_row(q), g.norm_row(k), v
