"""The `stablelm` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import flag, real
from aprgraph.graph.families.parallel import ParallelBlock

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class StableLm(ParallelBlock):
    """StableLM 3B, StableLM 2 (arXiv:2402.17834): LayerNorms, RoPE in a part of each head.

    StableLM 2 12B has attention and network side by side behind one norm, and norms of the heads of q and k, each with
    weights of its own.
    """

    architecture = "stablelm"
    hf_classes = "StableLmForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {"q_norm": "self_attn.q_layernorm", "k_norm": "self_attn.k_layernorm"}
    absent_keys = ("rope.freq_base",)
    norm_op = "layer_norm"
    eps = real("attention.layer_norm_epsilon", "layer_norm_eps", least=0)
    #: Read and not used: converters write true where config.json says nothing. Whether there is a second norm tells.
    is_parallel = flag("use_parallel_residual", "use_parallel_residual", False)

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Pre-norm, or one norm for attention and network."""
        return Decoder.layer(self, g, x, layer) if g.has("ffn_norm") else super().layer(g, x, layer)

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """RoPE, after LayerNorms of the heads in models that have them."""
        return super().apply_rope(g, g.norm_heads(x, own_weights=True) if g.has(f"{x.name}_norm") else x, layer)
