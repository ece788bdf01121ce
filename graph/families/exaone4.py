"""The `exaone4` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.numbers import number
from aprgraph.graph.families.post_norms import PostNorms
from aprgraph.graph.families.qwen3 import Qwen3
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class Exaone4(Qwen3, PostNorms):
    """EXAONE 4.0 (arXiv:2507.11407): norms behind attention and feed-forward network and of each head of q and k; in the 32B
    model three layers with a window to one without window and RoPE.

    llama.cpp applies windows to models of 64 layers alone.
    """

    architecture = "exaone4"
    hf_classes = "Exaone4ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    absent_keys = ("attention.sliding_window",)
    windows = Windows(period=4)
    #: The window, 0 for none in any layer. A checkpoint may have one that no layer uses.
    span = number("attention.sliding_window", None, 0, least=0)

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """A norm over each head, then RoPE; in a model with a window the layers without it have none (NoPE, arXiv:2305.19466)."""
        return super().apply_rope(g, x, layer) if self.windows[layer] or not self.span else g.norm_heads(x)
