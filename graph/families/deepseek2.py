"""The `deepseek2` architecture of GGUF, under whose name several models with latent attention are converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.expert_groups import ExpertGroups
from aprgraph.graph.families.latent_attention import LatentAttention
from aprgraph.graph.families.mixture import SIGMOID, SOFTMAX
from aprgraph.graph.families.numbers import Reading, number, real, same_in_all

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class DeepSeek2(LatentAttention, ExpertGroups):
    """DeepSeek V2, V3 and R1, Kimi K2, GLM-4.7-Flash (arXiv:2405.04434): latent attention, shared experts, the first layers
    dense, experts chosen by groups.

    V2 chooses experts by their scores, and groups by their best expert. V3 (arXiv:2412.19437) chooses by sigmoids with
    a bias that takes no part in the weights, and groups by their two best.
    """

    architecture = "deepseek2"
    hf_classes = "DeepseekV2ForCausalLM DeepseekV3ForCausalLM Glm4MoeLiteForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"moe_router_scores": "exp_probs_b"}
    hf_names = {
        "moe_router_scores": "mlp.gate.e_score_correction_bias",
        "shared_gate": "mlp.shared_experts.gate_proj",
        "shared_up": "mlp.shared_experts.up_proj",
        "shared_out": "mlp.shared_experts.down_proj",
    }
    normalises = False
    other_gatings = (SIGMOID,)

    experts = number("expert_count", "n_routed_experts", 0, least=0, most=1 << 16)
    expert_ffn = same_in_all("expert_feed_forward_length", "moe_intermediate_size", given="experts")
    expert_scale = real("expert_weights_scale", "routed_scaling_factor", 1.0)
    dense_layers = number("leading_dense_block_count", "first_k_dense_replace", 0, least=0)
    shared_experts = number("expert_shared_count", "n_shared_experts", 0, least=0)
    shared_ffn: Reading[int] = Reading(lambda f: f.expert_ffn * f.shared_experts if f.experts else 0)

    def gating_of(self, g: GraphBuilder) -> int:
        """As the file says. Where it does not, sigmoids came together with the bias of the choice."""
        return self.gating or (SIGMOID if g.has("moe_router_scores", "bias") else SOFTMAX)

    def choose_by(self, g: GraphBuilder, scores: str) -> str:
        """The router's scores, or their sigmoids with the bias of the choice (arXiv:2408.15664)."""
        if self.gating_of(g) == SOFTMAX:
            return scores  # in the same order as the softmax
        return self.biased_sigmoids(g, scores)
