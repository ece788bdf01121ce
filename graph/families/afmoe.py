"""The `afmoe` architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.glm4moe import Glm4Moe
from aprgraph.graph.families.numbers import Reading, flag, number, real
from aprgraph.graph.families.rope_in_windows import RopeInWindows
from aprgraph.graph.families.sandwich import SandwichNorms

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

_PERIOD = 4


class Afmoe(RopeInWindows, SandwichNorms, Glm4Moe):
    """Trinity Nano, Mini and Large (arXiv:2602.17004): gated attention, three layers with a window and RoPE to one without either, norms on
    both sides and of each head of q and k, experts chosen by sigmoids with a bias, shared experts, the first layers dense.

    Which layers have RoPE no key of GGUF says: those with a window, and in a file without windows three of four. In llama.cpp it is
    always three of four. The weights of experts are divided by their sum, unless the file says otherwise, and llama.cpp divides
    only where it says so.
    """

    architecture = "afmoe"
    hf_classes = "AfmoeForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"moe_router_scores": "exp_probs_b"}
    hf_names = {
        **Glm4Moe.hf_names,
        "attn_gate": "self_attn.gate_proj", "attn_post_norm": "post_attention_layernorm", "ffn_norm": "pre_mlp_layernorm",
        "ffn_post_norm": "post_mlp_layernorm", "moe_router_logits": "mlp.router.gate", "moe_router_scores": "mlp.expert_bias",
    }  # fmt: skip
    norms_heads = True
    experts = number("expert_count", "num_experts", most=1 << 16)
    expert_scale = real("expert_weights_scale", "route_scale", 1.0)
    dense_layers = number("leading_dense_block_count", "num_dense_layers", 0, least=0)
    shared_experts = number("expert_shared_count", "num_shared_experts", 1, least=0)
    shared_ffn: Reading[int] = Reading(lambda f: f.expert_ffn * f.shared_experts)
    #: Whether embeddings are multiplied by the root of the hidden size: in all GGUF files, which have no key for it.
    scales_embedding = flag("mup_enabled", "mup_enabled", True)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the kinds of the layers, where there are none, by every how many layers one attends to all positions."""
        made = dict(fields)
        interval, layers = made.pop("global_attn_every_n_layers", _PERIOD), made.get("num_hidden_layers")
        if made.get("layer_types") is None and type(layers) is int and type(interval) is int and interval > 0:
            made["layer_types"] = ["sliding_attention" if (layer + 1) % interval else "full_attention" for layer in range(layers)]
        return made

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The embedding, scaled by sqrt(E)."""
        return g.embed("embedding", table, scale=math.sqrt(self.hidden) if self.scales_embedding else 1.0)

    def turns(self, layer: int) -> bool:
        """Whether a layer has RoPE: see the docstring of the class."""
        return self.windows[layer] != 0 if self.span else (layer + 1) % _PERIOD != 0

    def attend(self, g: GraphBuilder, x: str, layer: int) -> str:
        """The heads times the sigmoid of a gate (Qiu et al. 2025, arXiv:2505.06708)."""
        gate = g.linear("attn_gate", x, self.heads[layer] * self.head_size, bias=False)
        return g.apply("attn_gated", "mul", super().attend(g, x, layer), g.inner("attn_gate_open", "sigmoid", gate))
