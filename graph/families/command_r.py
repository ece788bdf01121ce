"""The `command-r` architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aprgraph.graph.families.numbers import flag, real
from aprgraph.graph.families.parallel import ParallelBlock

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class CommandR(ParallelBlock):
    """Command R, Command R+, Aya 23 (Cohere, 2024): attention and network side by side behind one LayerNorm without a bias,
    RoPE of neighbours, scaled logits.

    The head is the embedding table. Command R+ normalises each head of q and k, by weights of its own.
    """

    architecture = "command-r"
    hf_classes = "CohereForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = hf_pairing = "interleaved"
    norm_op = "layer_norm"
    eps = real("attention.layer_norm_epsilon", "layer_norm_eps", least=0)
    logit_scale = real("logit_scale", "logit_scale", 1.0)
    #: Whether config.json says that heads of q and k are normalised. In GGUF files the weights say so.
    qk_norm = flag("use_qk_norm", "use_qk_norm", False)

    def project(self, g: GraphBuilder, x: str, layer: int) -> Sequence[Heads]:
        """The heads of q, k and v, those of q and k after LayerNorms where the model has them."""
        q, k, v = super().project(g, x, layer)
        if self.qk_norm or g.has("q_norm"):
            q, k = g.norm_heads(q, own_weights=True), g.norm_heads(k, own_weights=True)
        return q, k, v

    def logits(self, g: GraphBuilder, x: str) -> str:
        """The logits, times ``logit_scale``."""
        return g.apply("lm_head", "scale", g.head("lm_head_raw", x), factor=self.logit_scale)
