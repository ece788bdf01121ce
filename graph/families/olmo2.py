"""The `olmo2` architecture."""

from __future__ import annotations

from aprgraph.graph.families.numbers import Reading
from aprgraph.graph.families.post_norms import PostNorms
from aprgraph.graph.families.rope_scaling import Rope, read_sliding_rope
from aprgraph.graph.families.row_norms import RowNorms
from aprgraph.graph.families.window import Windows


class Olmo2(RowNorms, PostNorms):
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
