"""The `llama4` architecture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aprgraph.graph.families.mixture import SIGMOID, Mixture
from aprgraph.graph.families.numbers import Reading, flag, flags, layer_list, number, per_layer, real, same_in_all
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads

_NETWORK = {"gate": "gate_proj", "up": "up_proj", "out": "down_proj"}


class Llama4(Mixture):
    """Llama 4 Scout and Maverick, the text part (Meta, 2025): attention within chunks of positions, and in every fourth
    layer to all, without RoPE and with queries that grow with their position; each expert reads its input times its weight.

    Scout, and not Maverick, normalises the heads of q and k, without weights, in the layers with RoPE.
    """

    architecture = "llama4"
    hf_classes = "Llama4ForCausalLM Llama4ForConditionalGeneration"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = hf_pairing = "interleaved"
    hf_names = {
        **{f"ffn_{slot}": f"feed_forward.{name}" for slot, name in _NETWORK.items()},
        **{f"shared_{slot}": f"feed_forward.shared_expert.{name}" for slot, name in _NETWORK.items()},
        **{f"moe_expert_{slot}": "feed_forward.experts" for slot in _NETWORK},
        "moe_router_logits": "feed_forward.router",
        **dict.fromkeys(("q_norm", "k_norm"), "self_attn.qk_norm"),
    }
    hf_outputs = {"moe_router_logits": 1}
    hf_transposed = ("moe_expert_gate", "moe_expert_out")
    absent_keys = ("attention.sliding_window", "attention.sliding_window_pattern")
    #: What counts is which layers these make.
    form_numbers = ("interval", "rope_interval")
    normalises = False
    weighs_inputs = True
    gating_function = SIGMOID

    ffn = per_layer("feed_forward_length", "intermediate_size_mlp")
    experts = number("expert_count", "num_local_experts", least=0, most=1 << 16)
    expert_ffn = same_in_all("expert_feed_forward_length", "intermediate_size", given="experts")
    shared_ffn: Reading[int] = Reading(lambda f: f.expert_ffn if f.experts else 0)
    #: Every how many layers one has experts, unless config.json lists these layers.
    interval = number("interleave_moe_layer_step", "interleave_moe_layer_step", 1, least=0)
    with_experts = layer_list("moe_layers", "moe_layers", lambda f: range(f.interval - 1, f.layers, f.interval) if f.interval else ())
    #: How many positions a chunk has.
    windows = Windows(period=4, default=8192, chunked=True)
    rope_interval = number("no_rope_layer_interval", "no_rope_layer_interval", 4)
    #: Whether q and k of a layer get RoPE, in spite of the field's name.
    has_rope = flags("no_rope_layers", "no_rope_layers", lambda f: f.default_rope())
    normalises_heads = flag("use_qk_norm", "use_qk_norm", lambda f: f.experts != 128)
    grows = flag("attn_temperature_tuning", "attn_temperature_tuning", True)
    #: By how much queries grow with the logarithm of their position, in steps of as many positions.
    growth = real("attention.temperature_scale", "attn_scale", 0.1, keep_zero=True)
    growth_span = number("attention.temperature_length", "floor_scale", 8192)

    def default_rope(self) -> list[bool]:
        """All but every fourth layer; in a GGUF file without chunks all, as in llama.cpp."""
        in_all = self.metadata.dialect != "hf" and not any(self.windows)
        return [in_all or (layer + 1) % self.rope_interval != 0 for layer in range(self.blocks)]

    def has_experts(self, layer: int) -> bool:
        """Whether a layer is one of those with experts."""
        return layer in self.with_experts

    def rope_angles(self, g: GraphBuilder) -> None:
        """The RoPE angles, and what the queries of each position are multiplied by in layers without RoPE."""
        super().rope_angles(g)
        if self.grows and self.growth and not all(self.has_rope):
            span = {"span": self.growth_span, "offset": 1}
            g.inner("query_temperature", "query_temperature", "positions", strength=self.growth, **span)

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """RoPE, then an RMSNorm over each head; or neither, and queries that grow (Nakanishi 2025, arXiv:2501.19399)."""
        if self.has_rope[layer]:
            turned = super().apply_rope(g, x, layer)
            return g.norm_heads(turned, has_weights=False) if self.normalises_heads else turned
        if x.name == "k" or not (self.grows and self.growth):
            return x
        heads = g.columns(x)
        return replace(x, value=g.inner("q_scaled", "scale_rows", heads, "query_temperature"), start=0)
