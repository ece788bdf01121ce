"""The `dbrx` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from aprgraph.graph.families.clipped_projections import ClippedProjections
from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import flag, number, per_layer, real, same_in_all

#: What config.json calls sizes that most have under other names.
_RENAMED = {
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "max_seq_len": "max_position_embeddings",
}
#: The objects in which it has the others, and which of these are read.
_OF_ATTENTION, _OF_NETWORK = "attn_config", "ffn_config"
_INSIDE = {
    _OF_ATTENTION: ("kv_n_heads", "clip_qkv"),
    _OF_NETWORK: ("ffn_hidden_size", "moe_num_experts", "moe_top_k", "moe_normalize_expert_weights"),
}  # fmt: skip
#: What the classes take where they leave them out.
_DEFAULTS = {"kv_n_heads": 1, "ffn_hidden_size": 3584, "moe_num_experts": 4, "moe_top_k": 1, "moe_normalize_expert_weights": 1.0}
_NORM = f"{_OF_NETWORK}.moe_normalize_expert_weights"
_MATRICES = ("moe_expert_gate", "moe_expert_up", "moe_expert_out")


class Dbrx(ClippedProjections, Mixture):
    """DBRX (Databricks, 2024): sixteen experts, LayerNorms without biases, bounds of q, k and v, which come as one tensor.

    Checkpoints have each kind of matrix of all experts as one.
    """

    architecture = "dbrx"
    hf_classes = "DbrxForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_root, hf_layers = "transformer", "blocks"
    gguf_names = {"ffn_norm": "attn_output_norm"}
    hf_names = {
        "embedding": "wte", "final_norm": "norm_f", "attn_norm": "norm_attn_norm.norm_1", "qkv_matmul": "norm_attn_norm.attn.Wqkv",
        "attn_out": "norm_attn_norm.attn.out_proj", "ffn_norm": "norm_attn_norm.norm_2", "moe_router_logits": "ffn.router.layer",
        "moe_expert_gate": "ffn.experts.mlp.w1", "moe_expert_up": "ffn.experts.mlp.v1", "moe_expert_out": "ffn.experts.mlp.w2",
    }  # fmt: skip
    norm_op = "layer_norm"
    eps = real("attention.layer_norm_epsilon", None, 1e-5, least=0)
    kv_heads = per_layer("attention.head_count_kv", f"{_OF_ATTENTION}.kv_n_heads", lambda f: f.heads)
    bound = real("attention.clamp_kqv", f"{_OF_ATTENTION}.clip_qkv", 0.0, least=0)
    ffn = per_layer("feed_forward_length", f"{_OF_NETWORK}.ffn_hidden_size")
    experts = number("expert_count", f"{_OF_NETWORK}.moe_num_experts", most=1 << 16)
    chosen = same_in_all("expert_used_count", f"{_OF_NETWORK}.moe_top_k")
    normalise = flag("expert_weights_norm", _NORM, True)

    def default_expert_ffn(self) -> int:
        """There is no dense network, and the size of one is that of an expert."""
        return self.ffn[0]

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With what lies in objects beside the other fields, each named with the object that it lies in."""
        made = {_RENAMED.get(name, name): value for name, value in fields.items() if name not in (*_INSIDE, "num_key_value_heads")}
        for place, names in _INSIDE.items():
            given = _object(fields, place)
            made |= {f"{place}.{name}": given.get(name, _DEFAULTS.get(name)) for name in names}
        if not isinstance(made.get("rope_parameters"), dict) and "rope_theta" in _object(fields, _OF_ATTENTION):
            made["rope_theta"] = _object(fields, _OF_ATTENTION)["rope_theta"]
        # The order of the norm by which weights are divided: 1 is their sum.
        made[_NORM] = {None: False, 1: True}.get(made[_NORM], made[_NORM])
        activation = _object(_object(fields, _OF_NETWORK), "ffn_act_fn").get("name", cls.activation)
        return made if activation == cls.activation else {**made, "hidden_act": activation}

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """GGUF has the matrices of each expert for themselves, with the rows of the product."""
        made = cls.made_fields(config)
        experts, size, hidden = (
            made.get(name) for name in (f"{_OF_NETWORK}.moe_num_experts", f"{_OF_NETWORK}.ffn_hidden_size", "hidden_size")
        )
        if slot not in _MATRICES or not isinstance(experts, int) or not isinstance(size, int) or not isinstance(hidden, int):
            return super().conversions(slot, config, what)
        return {slot: Conversion(dims=(experts, size, hidden), exchanges=slot == "moe_expert_out")}


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object among fields; empty where there is none."""
    found = fields.get(name)
    return found if isinstance(found, dict) else {}
