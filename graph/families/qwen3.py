"""The `qwen3` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.window import CheckpointWindows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class Qwen3(Decoder):
    """Qwen 3 (arXiv:2505.09388): each head of q and k is normalised before RoPE."""

    architecture = "qwen3"
    hf_classes = "Qwen3ForCausalLM Qwen3Model"
    windows = CheckpointWindows()
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """An RMSNorm over each head, then RoPE."""
        return super().apply_rope(g, g.norm_heads(x), layer)
