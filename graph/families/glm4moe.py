"""The `glm4moe` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from aprgraph.graph.families.mixture import SIGMOID, Mixture
from aprgraph.graph.families.numbers import Reading, number, real

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class Glm4Moe(Mixture):
    """GLM-4.5 to 4.7 (arXiv:2508.06471): experts chosen by sigmoids with a bias, a shared expert, the first layers dense.

    RoPE turns half of each head. The larger models normalise each head of q and k.
    """

    architecture = "glm4moe"
    hf_classes = "Glm4MoeForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"ffn_norm": "post_attention_norm", "moe_router_scores": "exp_probs_b"}
    hf_names = {
        "moe_router_scores": "mlp.gate.e_score_correction_bias",
        "shared_gate": "mlp.shared_experts.gate_proj",
        "shared_up": "mlp.shared_experts.up_proj",
        "shared_out": "mlp.shared_experts.down_proj",
    }
    gating_function = SIGMOID
    #: Whether every model normalises each head of q and k.
    norms_heads: ClassVar[bool] = False
    experts = number("expert_count", "n_routed_experts", most=1 << 16)
    expert_scale = real("expert_weights_scale", "routed_scaling_factor", 1.0)
    dense_layers = number("leading_dense_block_count", "first_k_dense_replace", 0, least=0)
    shared_experts = number("expert_shared_count", "n_shared_experts", 1, least=0)
    shared_ffn: Reading[int] = Reading(lambda f: f.expert_ffn * f.shared_experts)

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """RoPE, after an RMSNorm over each head in models that have one."""
        return super().apply_rope(g, g.norm_heads(x) if self.norms_heads or g.has(f"{x.name}_norm") else x, layer)

    def choose_by(self, g: GraphBuilder, scores: str) -> str:
        """The sigmoids of the scores, plus a bias that takes no part in the weights."""
        return self.biased_sigmoids(g, scores, needs_bias=True)
