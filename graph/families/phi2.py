"""The `phi2` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.numbers import real
from aprgraph.graph.families.parallel import ParallelBlock
from aprgraph.graph.families.ungated import UngatedNetwork

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Phi2(ParallelBlock, UngatedNetwork):
    """Phi 1, 1.5 and 2 (arXiv:2309.05463): attention and network side by side behind one LayerNorm, RoPE in a part of each
    head, biases everywhere, the head's too.
    """

    architecture = "phi2"
    hf_classes = "PhiForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {"attn_out": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_out": "mlp.fc2", "final_norm": "final_layernorm"}
    absent_keys = ("rope.freq_base",)
    norm_op = "layer_norm"
    norm_bias = True
    qkv_bias = True
    activation = "gelu"
    eps = real("attention.layer_norm_epsilon", "layer_norm_eps", least=0)

    def logits(self, g: GraphBuilder, x: str) -> str:
        """The head, with a bias. A checkpoint may tie its weight to the embedding table."""
        if self.metadata.dialect == "hf" and not g.has("lm_head"):
            product = g.inner("lm_head_matmul", "linear", x, g.weight("embedding", g.vocabulary, self.hidden))
            return g.apply("lm_head", "bias_add", product, *g.biases(("lm_head", g.vocabulary), needed=True))
        return g.linear("lm_head", x, g.vocabulary)
