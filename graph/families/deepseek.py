"""The `deepseek` architecture."""

from __future__ import annotations

from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import Reading, number, same_in_all


class DeepSeek(Mixture):
    """DeepSeekMoE 16B (arXiv:2401.06066): a Llama with experts whose shares of a softmax are not divided by their sum, shared
    experts beside them, the first layers dense.

    Checkpoints are of the code that came with them: transformers has no class of it.
    """

    architecture = "deepseek"
    hf_classes = "DeepseekForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = "interleaved"
    hf_names = {
        "shared_gate": "mlp.shared_experts.gate_proj",
        "shared_up": "mlp.shared_experts.up_proj",
        "shared_out": "mlp.shared_experts.down_proj",
    }
    normalises = False
    experts = number("expert_count", "n_routed_experts", most=1 << 16)
    expert_ffn = same_in_all("expert_feed_forward_length", "moe_intermediate_size")
    dense_layers = number("leading_dense_block_count", "first_k_dense_replace", 0, least=0)
    shared_experts = number("expert_shared_count", "n_shared_experts", 0, least=0)
    shared_ffn: Reading[int] = Reading(lambda f: f.expert_ffn * f.shared_experts)
