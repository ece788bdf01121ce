"""The `qwen35` and `qwen35moe` architectures: the text models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aprgraph.graph.families.conversion import Conversion, Indices
from aprgraph.graph.families.delta_net import DeltaNet
from aprgraph.graph.families.numbers import per_layer
from aprgraph.graph.families.qwen2moe import Qwen2Moe

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Qwen35(DeltaNet):
    """Qwen 3.5, dense (Qwen, 2026): gated delta nets, and gated attention in every fourth layer, with a dense network.

    Conversion to GGUF puts the heads of v into another order: those that share a head of q and k are as far apart as there
    are such heads. RoPE divides among the axes of an image, which are one in a text.
    """

    architecture = "qwen35"
    hf_classes = "Qwen3_5ForCausalLM Qwen3_5ForConditionalGeneration"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {**DeltaNet.gguf_names, "delta_beta": "ssm_beta", "delta_alpha": "ssm_alpha"}
    hf_names = {
        "qkv_matmul": "linear_attn.in_proj_qkv",
        "delta_gate": "linear_attn.in_proj_z",
        "delta_beta": "linear_attn.in_proj_b",
        "delta_alpha": "linear_attn.in_proj_a",
        **{slot: name for slot, name in DeltaNet.hf_names.items() if slot not in ("delta_in", "delta_beta_decay")},
    }
    tiled = True

    def beta_and_alpha(self, g: GraphBuilder, x: str) -> tuple[str, str]:
        """What `delta_beta` and `delta_decay` are made of."""
        weights = {slot: g.weight(slot, self.delta_heads, self.hidden) for slot in ("delta_beta", "delta_alpha")}
        return g.inner("delta_beta_raw", "linear", x, weights["delta_beta"]), g.inner(
            "delta_decay_raw", "linear", x, weights["delta_alpha"]
        )

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """The order of the heads of v, beside what every delta net has."""
        (own,) = super().conversions(slot, config, what).values()
        if slot == "delta_out":
            return {slot: Conversion(columns=cls.column_order("delta_gated", config))}
        stage = {"qkv_matmul": "conv_in", "delta_alpha": "delta_beta", "delta_step": "delta_beta"}.get(slot, slot)
        return {slot: Conversion(cls.column_order(stage, config), values=own.values)}

    @classmethod
    def column_order(cls, stage: str, config: Mapping[str, Any]) -> Indices | None:
        """Heads of v by their places among those that share a head of q and k."""
        names = ("linear_num_key_heads", "linear_key_head_dim", "linear_num_value_heads", "linear_value_head_dim")
        groups, size, heads, value_size = (value if isinstance(value := config.get(name), int) else 0 for name in names)
        if not groups or heads in (0, groups):
            return None
        order = np.arange(heads).reshape(groups, -1).T.reshape(-1)
        columns = (order[:, None] * value_size + np.arange(value_size)).reshape(-1)
        if stage in ("conv_in", "conv_out", "conv_silu"):
            return np.concatenate([np.arange(2 * groups * size), 2 * groups * size + columns])
        if stage in ("delta_gate", "delta_rule", "delta_gated"):
            return columns
        return order if stage in ("delta_beta", "delta_decay") else None


class Qwen35Moe(Qwen35, Qwen2Moe):
    """Qwen 3.5, mixtures of experts (Qwen, 2026): gated delta nets, gated attention in every fourth layer, and a shared
    expert beside the chosen ones.
    """

    architecture = "qwen35moe"
    hf_classes = "Qwen3_5MoeForCausalLM Qwen3_5MoeForConditionalGeneration"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    normalises = True
    #: No layer has a dense network, and files may leave its size out.
    ffn = per_layer("feed_forward_length", "intermediate_size", 1)
