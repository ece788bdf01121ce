"""The `lfm2moe` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.lfm2 import Lfm2
from aprgraph.graph.families.mixture import SIGMOID, Mixture
from aprgraph.graph.families.numbers import number, real

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Lfm2Moe(Lfm2, Mixture):
    """LFM2, mixtures of experts (arXiv:2511.23404): LFM2 with experts chosen by sigmoids with a bias, the first layers dense."""

    architecture = "lfm2moe"
    hf_classes = "Lfm2MoeForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {**Lfm2.gguf_names, "moe_router_scores": "exp_probs_b"}
    hf_names = {
        **Lfm2.hf_names,
        "moe_router_logits": "feed_forward.gate",
        "moe_router_scores": "feed_forward.expert_bias",
        **dict.fromkeys(("moe_expert_gate", "moe_expert_up", "moe_expert_out"), "feed_forward.experts"),
    }
    hf_rope = "pos_emb"
    adjusts = False
    gating_function = SIGMOID
    expert_scale = real("expert_weights_scale", "routed_scaling_factor", 1.0)
    dense_layers = number("leading_dense_block_count", "num_dense_layers", 0, least=0)

    def choose_by(self, g: GraphBuilder, scores: str) -> str:
        """The sigmoids of the scores, plus a bias that takes no part in the weights."""
        return self.biased_sigmoids(g, scores)
