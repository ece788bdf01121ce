"""The `cohere2` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.command_r import CommandR
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class Cohere2(CommandR):
    """Command R7B and Command A (arXiv:2504.00698): Command R with three layers with a window and RoPE to one that
    sees everything, without RoPE.
    """

    architecture = "cohere2"
    hf_classes = "Cohere2ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    windows = Windows(period=4)

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """RoPE in the layers with a window; none in the others (NoPE, arXiv:2305.19466)."""
        return super().apply_rope(g, x, layer) if self.windows[layer] else x
