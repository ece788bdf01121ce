"""The `gpt2` architecture."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from aprgraph.graph.families.numbers import Reading, number, per_layer, real
from aprgraph.graph.families.rope_scaling import Rope
from aprgraph.graph.families.ungated import UngatedNetwork

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class Gpt2(UngatedNetwork):
    """GPT-2 (Radford et al. 2019): learnt embeddings of positions, LayerNorms, biases everywhere.

    Checkpoints hold matrices with the rows of x first.
    """

    architecture = "gpt2"
    hf_classes = "GPT2LMHeadModel"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {
        "embedding": "wte", "position_embedding": "wpe", "final_norm": "ln_f", "attn_norm": "ln_1", "ffn_norm": "ln_2",
        "qkv_matmul": "attn.c_attn", "attn_out": "attn.c_proj", "ffn_up": "mlp.c_fc", "ffn_out": "mlp.c_proj",
    }  # fmt: skip
    gguf_names = {"position_embedding": "position_embd"}
    hf_root, hf_layers = "transformer", "h"
    hf_transposed: ClassVar[Collection[str]] = ("qkv_matmul", "attn_out", "ffn_up", "ffn_out")
    norm_op = "layer_norm"
    norm_bias = True
    qkv_bias = True
    activation = "gelu"
    blocks = number("block_count", "n_layer", most=4096)
    context = number("context_length", "n_positions")
    hidden = number("embedding_length", "n_embd")
    heads = per_layer("attention.head_count", "n_head")
    ffn = per_layer("feed_forward_length", "n_inner", lambda f: 4 * f.hidden)
    eps = real("attention.layer_norm_epsilon", "layer_norm_epsilon", least=0)
    #: Not used, and so not read of the file, which would be blamed for leaving its base out.
    rope: Reading[Rope] = Reading(lambda f: Rope(f.head_size, f.rope_base))

    def rope_angles(self, g: GraphBuilder) -> None:
        """There is no RoPE."""

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """As it is."""
        return x

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The token's embedding plus that of its position."""
        return g.embed_with_positions("embedding", table, g.weight("position_embedding", self.context, self.hidden))
