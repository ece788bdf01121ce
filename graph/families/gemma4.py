"""The `gemma4` architecture: the text models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.capped_logits import CappedLogits
from aprgraph.graph.families.layer_kinds import with_numbers_of_layers
from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import Reading, flag, number, real, same_in_all
from aprgraph.graph.families.per_layer_input import PerLayerInputs
from aprgraph.graph.families.rope_scaling import Rope, read_sliding_rope
from aprgraph.graph.families.shared_keys import SharedKeys
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Gemma4(PerLayerInputs, SharedKeys, CappedLogits, Mixture):
    """Gemma 4 (Google, 2026): five layers with a window to one that sees everything, whose heads are larger and of which
    RoPE turns a part; embeddings for each layer, shared keys and values, or experts beside a dense network.

    RoPE pairs the two halves of a head, and turns the first pairs alone: files have the others' frequencies divided by 1e30.
    """

    architecture = "gemma4"
    hf_classes = "Gemma4ForCausalLM Gemma4ForConditionalGeneration"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {
        **PerLayerInputs.gguf_names,
        "ffn_out_norm": "post_ffw_norm_1",
        "moe_norm": "pre_ffw_norm_2",
        "moe_post_norm": "post_ffw_norm_2",
        "moe_router_norm": "ffn_gate_inp.scale",
        "moe_router": "ffn_down_exps.scale",
        "layer_out": "layer_output_scale",
    }
    hf_names = {
        **PerLayerInputs.hf_names,
        "v_norm": "self_attn.v_norm",
        "attn_post_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "ffn_out_norm": "post_feedforward_layernorm_1",
        "ffn_post_norm": "post_feedforward_layernorm",
        "moe_norm": "pre_feedforward_layernorm_2",
        "moe_post_norm": "post_feedforward_layernorm_2",
        "moe_router_norm": "router.scale",
        "moe_router_logits": "router.proj",
        "moe_router": "router.per_expert_scale",
        "moe_expert_gate": "experts",
        "moe_expert_up": "experts",
        "moe_expert_out": "experts",
        "layer_out": "layer_scalar",
    }
    #: GGUF files say it by their tensors.
    form_numbers = ("per_layer_tokens", "keys_as_values")
    activation = "gelu"
    rope_base = 1_000_000.0
    windows = Windows(period=6, default=512)
    head_size = number("attention.key_length", "global_head_dim", lambda f: f.default_head_size())
    sliding_head_size = number("attention.key_length_swa", "head_dim", lambda f: f.head_size)
    sliding_value_size = number("attention.value_length_swa", None, lambda f: f.sliding_head_size)
    sliding_turned = number("rope.dimension_count_swa", None, lambda f: f.sliding_head_size)
    sliding_rope: Reading[Rope] = Reading(lambda f: read_sliding_rope(f.metadata, f.architecture, f.sliding_turned, 10000.0))
    scale = real("attention.scale", None, 1.0)
    #: Whether layers that see everything have no v of their own.
    keys_as_values = flag("attention_k_eq_v", "attention_k_eq_v", False)
    experts = number("expert_count", "num_experts", 0, least=0, most=1 << 16)
    chosen = same_in_all("expert_used_count", "top_k_experts", given="experts")

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``with_numbers_of_layers``."""
        return with_numbers_of_layers(fields)

    def check(self) -> None:
        """Raise ModelError for heads of v of another size than those of k, which they may be."""
        super().check()
        pairs = (("", self.head_size, self.value_size), ("_swa", self.sliding_head_size, self.sliding_value_size))
        for end, size, value_size in pairs:
            if size != value_size:
                key, value_key = (self.named(f"attention.{what}_length{end}") for what in ("key", "value"))
                raise ModelError(f"{self.metadata.path}: {key} is {size}, but {value_key} is {value_size}; expected the same")

    def size_of(self, layer: int) -> int:
        """The size of a head of q, k and v."""
        return self.sliding_head_size if self.windows[layer] else self.head_size

    def has_values(self, g: GraphBuilder, layer: int) -> bool:
        """Whether a layer has a projection of v."""
        return g.has("v") if self.metadata.dialect == "gguf" else not self.keys_as_values or bool(self.windows[layer])

    def rope_angles(self, g: GraphBuilder) -> None:
        """The RoPE angles of both kinds of layers."""
        if not all(self.windows):
            is_part = self.metadata.dialect == "gguf" or g.has("rope_freqs")
            g.angles("rope_angles", self.rope, g.weight("rope_freqs", self.rope.dims // 2) if is_part else None)
        if any(self.windows):
            g.angles("rope_angles_sliding", self.sliding_rope)

    def angles_of(self, layer: int) -> str:
        """The node with the RoPE angles of a layer."""
        return "rope_angles_sliding" if self.windows[layer] else "rope_angles"

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention and network between norms, then what the layer makes of the token, and its scale."""
        x = g.add("post_attn_residual", x, g.norm("attn_post_norm", self.attention(g, g.norm("attn_norm", x), layer)))
        x = g.add("post_ffn_residual", x, g.norm("ffn_post_norm", self.network(g, x, layer)))
        scale = g.weight("layer_out", 1) if g.has("layer_out") else None
        if self.per_layer:
            terms = x, self.of_the_token(g, x, layer)
            if scale is None:
                return g.add("layer_out", *terms)
            x = g.inner("layer_sum", "add", *terms)
        return x if scale is None else g.apply("layer_out", "scale_columns", x, scale)

    def network(self, g: GraphBuilder, x: str, layer: int) -> str:
        """The dense network, and in some models experts beside it, each with norms of its own."""
        dense = self.down(g, *self.gate_and_up(g, g.norm("ffn_norm", x), layer))
        if not self.experts:
            return dense
        return g.add("ffn_sum", g.norm("ffn_out_norm", dense), g.norm("moe_post_norm", self.mix(g, x)))

    def router_input(self, g: GraphBuilder, x: str) -> str:
        """The hidden state after a norm without weights, times a vector, by sqrt(E)."""
        normed = g.inner("moe_router_plain", "rms_norm", x, eps=self.eps, groups=1)
        scaled = g.inner("moe_router_scaled", "scale", normed, factor=self.hidden**-0.5)
        return g.apply("moe_router_norm", "scale_columns", scaled, g.weight("moe_router_norm", self.hidden))

    def expert_input(self, g: GraphBuilder, x: str) -> str:
        """The hidden state after a norm of the experts' own."""
        return g.norm("moe_norm", x)

    def weigh(self, g: GraphBuilder, scores: str, ids: str) -> str:
        """The weights of the chosen experts, each times its expert's factor."""
        if not g.has("moe_router"):
            return super().weigh(g, scores, ids)
        weights = g.inner("moe_router_weights", "router_weights", scores, ids, **self.weighing(g))
        return g.apply("moe_router", "expert_scale", weights, ids, g.weight("moe_router", self.experts))
