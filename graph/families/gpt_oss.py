"""The `gpt-oss` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import number, same_in_all
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class GptOss(Mixture):
    """gpt-oss 20B and 120B (arXiv:2508.10925): a sink beside every head's scores, biases everywhere, a window in every
    second layer.

    The activation of its experts is clamped (``clamped_swiglu``). YaRN's bounds are not rounded to whole pairs, in the
    original; llama.cpp rounds them.
    """

    architecture = "gpt-oss"
    hf_classes = "GptOssForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"ffn_norm": "post_attention_norm"}
    hf_names = {"moe_router_logits": "mlp.router"}
    hf_gate_up = "interleaved"
    hf_transposed = ("moe_expert_gate", "moe_expert_out")
    whole_pairs = False
    qkv_bias = True
    windows = Windows(period=2, default=128)
    experts = number("expert_count", "num_local_experts")
    expert_ffn = same_in_all("expert_feed_forward_length", "intermediate_size")

    def attention_extras(self, g: GraphBuilder) -> Mapping[str, Any]:
        """The sinks: one learnt score for each head, which takes part in the softmax and has no value."""
        return {"sinks": g.weight("attn_sinks", self.heads[0])}

    def activate_expert(self, g: GraphBuilder, gate: str, up: str) -> str:
        """The clamped SwiGLU, with the bounds and the sigmoid's factor of the original."""
        return g.apply("moe_expert_swigl", "clamped_swiglu", gate, up, limit=7.0, alpha=1.702)
