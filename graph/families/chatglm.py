"""The `chatglm` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class ChatGlm(Decoder):
    """ChatGLM 3, GLM-4 9B (arXiv:2406.12793): biases of q, k and v, RoPE of neighbours in half of each head, gate and
    up as one tensor.
    """

    architecture = "chatglm"
    hf_classes = "GlmForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = hf_pairing = "interleaved"

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """One matrix product gives the columns of gate, then those of up."""
        return g.gate_and_up_in_one(x, self.ffn[layer])
