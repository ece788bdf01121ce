"""The `deepseek2` architecture of GGUF, under whose name several models with latent attention are converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.latent_attention import LatentAttention
from aprgraph.graph.families.mixture import SIGMOID, SOFTMAX, Mixture
from aprgraph.graph.families.numbers import Reading, number, real, same_in_all

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class DeepSeek2(LatentAttention, Mixture):
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
    groups = number("expert_group_count", "n_group", 1, least=0)
    used_groups = number("expert_group_used_count", "topk_group", 1, least=0)

    def check(self) -> None:
        """Raise ModelError for groups that do not fit, and what the parents raise."""
        super().check()
        count_name, used_name, chosen_name = (self.named(f"expert_{name}count") for name in ("group_", "group_used_", "used_"))
        if self.experts and self.groups > 1 and (self.experts % self.groups or not 1 <= self.used_groups <= self.groups):
            raise ModelError(
                f"{self.metadata.path}: {self.used_groups} ({used_name}) of {self.groups} groups "
                f"({count_name}) of {self.experts} experts ({self.named('expert_count')}); expected some of several "
                "groups of equal size"
            )
        size = self.experts // self.groups if self.experts and self.groups > 1 else 0
        if size and self.chosen > self.used_groups * size:
            raise ModelError(
                f"{self.metadata.path}: {chosen_name} is {self.chosen}, but {self.used_groups} ({used_name}) of {self.groups} groups "
                f"({count_name}) are used, which have {self.used_groups * size} experts; expected at most that many"
            )
        if size == 1 and self.gating == SIGMOID:
            raise ModelError(
                f"{self.metadata.path}: {count_name} is {self.groups}, with one expert in each group; expected two at least, by which "
                "groups are chosen"
            )

    def gating_of(self, g: GraphBuilder) -> int:
        """As the file says. Where it does not, sigmoids came together with the bias of the choice."""
        return self.gating or (SIGMOID if g.has("moe_router_scores", "bias") else SOFTMAX)

    def choose_by(self, g: GraphBuilder, scores: str) -> str:
        """The router's scores, or their sigmoids with the bias of the choice (arXiv:2408.15664)."""
        if self.gating_of(g) == SOFTMAX:
            return scores  # in the same order as the softmax
        return self.biased_sigmoids(g, scores)

    def choose(self, g: GraphBuilder, scores: str) -> str:
        """The best experts of the best groups."""
        if self.groups <= 1:
            return super().choose(g, scores)
        best = 2 if self.gating_of(g) == SIGMOID else 1
        groups = {"groups": self.groups, "used_groups": self.used_groups, "best_of_group": best}
        return g.apply("moe_router_indices", "top_k", scores, k=self.chosen, **groups)
