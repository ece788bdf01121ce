"""The `exaone-moe` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprgraph.graph.families.expert_groups import ExpertGroups
from aprgraph.graph.families.glm4moe import Glm4Moe
from aprgraph.graph.families.numbers import number
from aprgraph.graph.families.rope_in_windows import RopeInWindows

#: How many layers, the first ones, the class takes for dense where config.json leaves it out.
_DENSE_LAYERS = 1


class ExaoneMoe(RopeInWindows, ExpertGroups, Glm4Moe):
    """K-EXAONE 236B-A23B (LG AI Research, 2026): three layers with a window to one without window and RoPE, norms of each head of q and
    k, experts chosen by sigmoids with a bias, a shared expert, the first layer dense.
    """

    architecture = "exaone-moe"
    hf_classes = "ExaoneMoeForCausalLM ExaoneMoEForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"moe_router_scores": "exp_probs_b"}
    hf_renamed = {"mlp.e_score_correction_bias": "mlp.gate.e_score_correction_bias"}
    norms_heads = True
    experts = number("expert_count", "num_experts", most=1 << 16)
    shared_experts = number("expert_shared_count", "num_shared_experts", 1)
    shared_ffn = number("expert_shared_feed_forward_length", None, lambda f: f.expert_ffn * f.shared_experts)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without what the code that came with the first checkpoints goes by, where it says what the class makes of the rest."""
        made, layers = dict(fields), fields.get("num_hidden_layers")
        kinds, dense = made.get("mlp_layer_types"), made.get("first_k_dense_replace", _DENSE_LAYERS)
        if kinds is None and type(layers) is int and type(dense) is int:
            kinds = ["dense" if layer < dense else "sparse" for layer in range(layers)]
        if isinstance(kinds, list):
            said = {"is_moe_layer": [kind == "sparse" for kind in kinds], "first_last_k_dense_replace": kinds.count("dense")}
            made = {name: value for name, value in made.items() if name not in said or value != said[name]}
        return made
