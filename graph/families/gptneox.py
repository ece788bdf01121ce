"""The `gptneox` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.encoder import read_activation
from aprgraph.graph.families.fused_heads import FusedByHead
from aprgraph.graph.families.numbers import Reading, flag, real
from aprgraph.graph.families.parallel import ParallelBlock
from aprgraph.graph.families.ungated import UngatedNetwork

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder
    from aprgraph.graph.families.conversion import Indices

#: The share of each head that RoPE turns where config.json leaves it out.
_SHARE = 0.25
#: What checkpoints' own fields of RoPE are called elsewhere.
_RENAMED = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}


class GptNeoX(FusedByHead, ParallelBlock, UngatedNetwork):
    """GPT-NeoX 20B, Pythia (arXiv:2204.06745): attention and network side by side, each behind a LayerNorm of its own, RoPE in a
    part of each head, biases everywhere.

    Checkpoints have q, k and v of each head side by side.
    """

    architecture = "gptneox"
    hf_classes = "GPTNeoXForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_root = "gpt_neox"
    hf_names = {
        "embedding": "embed_in", "final_norm": "final_layer_norm", "qkv_matmul": "attention.query_key_value", "attn_out": "attention.dense",
        "ffn_up": "mlp.dense_h_to_4h", "ffn_out": "mlp.dense_4h_to_h",
    }  # fmt: skip
    absent_keys = ("rope.freq_base",)
    form_numbers = ("activation_op",)
    norm_op = "layer_norm"
    norm_bias = True
    qkv_bias = True
    eps = real("attention.layer_norm_epsilon", "layer_norm_eps", least=0)
    is_parallel = flag("use_parallel_residual", "use_parallel_residual", True)
    activation_op: Reading[str] = Reading(read_activation)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With RoPE as other classes call it; the base and the share of each head are the class's own where they are left out."""
        made = {_RENAMED.get(name, name): value for name, value in fields.items()}
        if not isinstance(made.get("rope_parameters"), dict) or "partial_rotary_factor" not in made["rope_parameters"]:
            made.setdefault("partial_rotary_factor", _SHARE)
        return made

    @classmethod
    def column_order(cls, stage: str, config: Mapping[str, Any]) -> Indices | None:
        """q, k and v of each head side by side, as those of all heads."""
        heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
        if stage not in ("qkv_matmul", "qkv_bias") or not isinstance(heads, int) or not isinstance(hidden, int) or not heads:
            return None
        return np.arange(3 * hidden).reshape(heads, 3, -1).swapaxes(0, 1).reshape(-1)

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Each reads a norm of what the layer is given; in some models the network waits for attention."""
        if not self.is_parallel:
            return Decoder.layer(self, g, x, layer)
        attention = self.attention(g, g.norm("attn_norm", x), layer)
        both = g.inner("parallel_sum", "add", attention, self.feed_forward(g, g.norm("ffn_norm", x), layer))
        return g.add("post_ffn_residual", x, both)

    def activate(self, g: GraphBuilder, up: str, layer: int) -> str:
        """GELU by erf, or by tanh in GGUF files."""
        return g.apply("ffn_swigl", self.activation_op, up)
