"""The `ernie4_5` and `ernie4_5-moe` architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import number, same_in_all

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Ernie45(Decoder):
    """ERNIE 4.5, dense (Baidu, 2025): a Llama whose RoPE pairs neighbours in checkpoints too."""

    architecture = "ernie4_5"
    hf_classes = "Ernie4_5ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = hf_pairing = "interleaved"


class Ernie45Moe(Ernie45, Mixture):
    """ERNIE 4.5 21B-A3B and 300B-A47B (Baidu, 2025): experts chosen by a softmax with a bias, shared experts, the first
    layers dense.
    """

    architecture = "ernie4_5-moe"
    hf_classes = "Ernie4_5_MoeForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"moe_router_scores": "exp_probs_b"}
    hf_names = {
        "moe_router_scores": "mlp.gate.moe_statics.e_score_correction_bias",
        "shared_gate": "mlp.shared_experts.gate_proj",
        "shared_up": "mlp.shared_experts.up_proj",
        "shared_out": "mlp.shared_experts.down_proj",
    }
    experts = number("expert_count", "moe_num_experts", most=1 << 16)
    chosen = same_in_all("expert_used_count", "moe_k")
    dense_layers = number("leading_dense_block_count", "moe_layer_start_index", 0, least=0)
    #: Every how many layers one has experts, and the last that may, which config.json alone says.
    interval = number("interleave_moe_layer_step", "moe_layer_interval", 1)
    last_with_experts = number("moe_layer_end_index", "moe_layer_end_index", lambda f: f.layers - 1, least=0)
    shared_experts = number("expert_shared_count", "moe_num_shared_experts", 0, least=0)
    shared_ffn = number("expert_shared_feed_forward_length", None, lambda f: f.expert_ffn * f.shared_experts, least=0)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer is one of every ``interval``, neither too early nor too late."""
        return super().has_experts(layer) and layer <= self.last_with_experts and (layer + 1) % self.interval == 0

    def choose_by(self, g: GraphBuilder, scores: str) -> str:
        """The softmax of the scores, plus a bias that takes no part in the weights, in models that have one."""
        return self.biased_shares(g, scores, "softmax") if g.has("moe_router_scores", "bias") else scores
