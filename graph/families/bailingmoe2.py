"""The `bailingmoe2` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprgraph.graph.errors import UnsupportedModelError, shown
from aprgraph.graph.families.expert_groups import ExpertGroups
from aprgraph.graph.families.glm4moe import Glm4Moe
from aprgraph.graph.families.numbers import number


class BailingMoe2(ExpertGroups, Glm4Moe):
    """Ling 2.0, Ring 2.0 (Ant Group, 2025): experts chosen by sigmoids with a bias from the best groups, a shared expert, the first
    layers dense, RoPE in half of each head, which is normalised.

    q, k and v are one tensor. Checkpoints have names of the code that came with them: transformers has no class of it.
    """

    architecture = "bailingmoe2"
    hf_classes = "BailingMoeV2ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"moe_router_scores": "exp_probs_b"}
    hf_names = {
        **Glm4Moe.hf_names,
        "embedding": "word_embeddings", "qkv_matmul": "attention.query_key_value", "q_norm": "attention.query_layernorm",
        "k_norm": "attention.key_layernorm", "attn_out": "attention.dense", "moe_router_scores": "mlp.gate.expert_bias",
    }  # fmt: skip
    norms_heads = True
    experts = number("expert_count", "num_experts", most=1 << 16)
    shared_experts = number("expert_shared_count", "num_shared_experts", 1)
    shared_ffn = number(
        "expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size", lambda f: f.expert_ffn * f.shared_experts
    )

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """As they are. Raises UnsupportedModelError for a router without sigmoids."""
        function = fields.get("score_function", "sigmoid")
        if function != "sigmoid":
            raise UnsupportedModelError(f"config.json: score_function is {shown(function)}; supported is 'sigmoid'")
        return fields
