"""The `phi3` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Phi3(Decoder):
    """Phi-3, Phi-4 mini and medium (arXiv:2404.14219): q, k, v come as one tensor, gate and up as another.

    Long-context models have two sets of RoPE factors (LongRoPE, arXiv:2402.13753). Where a file names a sliding window,
    all layers have it, as in the original; llama.cpp ignores it.
    """

    architecture = "phi3"
    hf_classes = "Phi3ForCausalLM"
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"
    windows = Windows(period=0)

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """One matrix product gives the columns of gate, then those of up."""
        return g.gate_and_up_in_one(x, self.ffn[layer])
