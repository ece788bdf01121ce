"""The `nomic-bert` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprgraph.graph.families.encoder import PostNormEncoder

#: Fields of the configuration that came with the code beside published checkpoints: as transformers 5 calls them.
_FIELDS = {
    "n_embd": "hidden_size", "n_head": "num_attention_heads", "n_inner": "intermediate_size", "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings", "layer_norm_epsilon": "layer_norm_eps", "rotary_emb_base": "rope_theta",
}  # fmt: skip


class NomicBert(PostNormEncoder):
    """Nomic Embed 1 and 1.5 (arXiv:2402.01613): BERT with RoPE in place of learnt positions, and gated networks.

    There are no biases but those of norms.
    """

    architecture = "nomic-bert"
    hf_classes = "NomicBertModel"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {**PostNormEncoder.hf_names, "ffn_norm": "post_attention_layernorm", "layer_out_norm": "post_mlp_layernorm"}
    hf_renamed = {
        "encoder.layers.": "layers.", "emb_ln.": "embeddings.LayerNorm.", ".attn.Wqkv.": ".self_attn.qkv_proj.",
        ".attn.out_proj.": ".self_attn.o_proj.", ".mlp.fc11.": ".mlp.up_proj.", ".mlp.fc12.": ".mlp.gate_proj.",
        ".mlp.fc2.": ".mlp.down_proj.", ".norm1.": ".post_attention_layernorm.", ".norm2.": ".post_mlp_layernorm.",
    }  # fmt: skip
    rope_base = 1000.0

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Under the names of transformers 5."""
        made = {_FIELDS.get(name, name): value for name, value in fields.items()}
        if made.get("activation_function") == "swiglu":
            made["hidden_act"] = "silu"
            del made["activation_function"]
        return made
