"""The `mimo2` architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.expert_groups import ExpertGroups
from aprgraph.graph.families.mixture import SIGMOID
from aprgraph.graph.families.numbers import Reading, number, real
from aprgraph.graph.families.rope_scaling import Rope, read_sliding_rope
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads

_PERIOD, _WINDOW = 6, "sliding_attention"
_SPAN, _KV_HEADS = "sliding_window_size", "num_key_value_heads"
#: Fields that are null in published files, for none, or for 1.
_MAY_BE_NULL = ("n_shared_experts", "routed_scaling_factor", "hybrid_block_size")
#: RoPE that the class has where config.json has no `rope_parameters`, whatever else that says.
_TURNED, _BASE, _BASE_IN_WINDOWS = 0.334, 5e6, 1e4


class Mimo2(ExpertGroups):
    """MiMo-V2-Flash (arXiv:2601.02780): five layers with a window, sinks and twice the KV heads to one without, heads of v smaller and
    scaled, experts chosen by sigmoids with a bias, the first layer dense.

    RoPE turns a third of each head, in layers with a window from another base. A checkpoint's window is one position larger than the one
    that its file calls `sliding_window` and GGUF files have: the original counts the positions before.
    """

    architecture = "mimo2"
    hf_classes = "MiMoV2FlashForCausalLM"
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"
    gguf_names = {"moe_router_scores": "exp_probs_b"}
    hf_names = {"attn_sinks": "self_attn.sinks", "moe_router_scores": "mlp.gate.e_score_correction_bias"}
    hf_renamed = {"self_attn.attention_sink_bias": "self_attn.sinks"}
    #: GGUF files say it by their tensors.
    form_numbers = ("dense_layers",)
    gating_function = SIGMOID
    windows = Windows(period=_PERIOD)
    sliding_rope: Reading[Rope] = Reading(lambda f: read_sliding_rope(f.metadata, f.architecture, f.rope.dims, f.rope.base))
    value_size = number("attention.value_length", "v_head_dim", lambda f: f.head_size)
    value_scale = real("attention.value_scale", "attention_value_scale", 1.0)
    experts = number("expert_count", "n_routed_experts", most=1 << 16)
    expert_scale = real("expert_weights_scale", "routed_scaling_factor", 1.0)
    dense_layers = number("leading_dense_block_count", "first_k_dense_replace", 0, least=0)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With what the class makes of the fields, and without what published files say of it a second time."""
        made = {name: value for name, value in fields.items() if value is not None or name not in _MAY_BE_NULL}
        layers, heads = made.get("num_hidden_layers"), made.get(_KV_HEADS, 4)
        if type(layers) is not int or type(heads) is not int:
            return made
        kinds = made.get("layer_types")
        if kinds is None:
            kinds = ["full_attention" if layer == 0 or (layer + 1) % _PERIOD == 0 else _WINDOW for layer in range(layers)]
        has_window = [kind == _WINDOW for kind in kinds]
        if made.get("mlp_layer_types") is None:
            made["mlp_layer_types"] = ["dense"] + ["sparse"] * (layers - 1)
        usual_rope = {"full_attention": _BASE, _WINDOW: _BASE_IN_WINDOWS}
        said = {
            "hybrid_layer_pattern": [int(one) for one in has_window],
            "moe_layer_freq": [int(kind == "sparse") for kind in made["mlp_layer_types"]],
            "swa_num_key_value_heads": 2 * heads,
            **{f"swa_{name}": made.get(name) for name in ("head_dim", "v_head_dim", "num_attention_heads")},
            "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False,
            "layernorm_epsilon": made.get("rms_norm_eps", 1e-5), "attention_chunk_size": made.get("sliding_window"),
        }  # fmt: skip
        if made.get("rope_parameters") is None:
            said |= {"rope_theta": _BASE, "swa_rope_theta": _BASE_IN_WINDOWS, "partial_rotary_factor": _TURNED}
            made["rope_parameters"] = {
                kind: {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": _TURNED} for kind, base in usual_rope.items()
            }
        made = {name: value for name, value in made.items() if name not in said or value != said[name]}
        span = made.pop(_SPAN, None)
        made |= {"sliding_window": span + 1} if type(span) is int else {}
        return made | {"layer_types": kinds, _KV_HEADS: [heads * (1 + one) for one in has_window]}

    def attention_extras(self, g: GraphBuilder) -> Mapping[str, Any]:
        """The sinks of layers with a window: one learnt score for each head, which takes part in the softmax and has no value."""
        layer = g.layer or 0
        return {"sinks": g.weight("attn_sinks", self.heads[layer])} if self.windows[layer] or g.has("attn_sinks") else {}

    def project(self, g: GraphBuilder, x: str, layer: int) -> Sequence[Heads]:
        """The heads of q, k and v, those of v scaled."""
        q, k, v = super().project(g, x, layer)
        if self.value_scale == 1:
            return q, k, v
        return q, k, replace(v, value=g.inner("v_scaled", "scale", g.columns(v), factor=self.value_scale), start=0)

    def feed_forward(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Experts, or a dense network."""
        is_dense = self.metadata.dialect == "gguf" and g.has("ffn_gate")
        return Decoder.feed_forward(self, g, x, layer) if is_dense else super().feed_forward(g, x, layer)

    def choose_by(self, g: GraphBuilder, scores: str) -> str:
        """The sigmoids of the scores, plus a bias that takes no part in the weights."""
        return self.biased_sigmoids(g, scores, needs_bias=True)
