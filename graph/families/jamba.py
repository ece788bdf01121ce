"""The `jamba` architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import Reading, number, per_layer, same_in_all
from aprgraph.graph.families.recurrent import RecurrentLayers, without_kv_heads
from aprgraph.graph.families.rope_scaling import Rope
from aprgraph.graph.families.selective_space import SelectiveSpace

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads

_SPACE, _ATTENTION = "linear_attention", "full_attention"
#: What the class takes where these fields are left out, and by how many columns of the hidden state the rank is one less.
_PERIOD, _OFFSET, _EXPERTS, _HIDDEN, _COLUMNS_A_RANK = 8, 4, 16, 4096, 16
#: Fields that the class does not read, or that change no number.
_IDLE_FIELDS = ("attn_layer_period", "attn_layer_offset", "layers_block_type", "use_mambapy", "use_associative_scan", "n_ctx",
                "calc_logits_for_entire_prompt")  # fmt: skip


class Jamba(SelectiveSpace, Mixture):
    """Jamba (arXiv:2403.19887): selective state spaces with norms of time steps, B and C, attention without RoPE in every eighth layer,
    experts in every second one.

    Experts are where a layer has a router, of weights as the softmax gives them, and as large as the dense networks.
    """

    architecture = "jamba"
    hf_classes = "JambaForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_rope = ""
    hf_names = {
        **{slot: name.replace("mixer.", "mamba.") for slot, name in SelectiveSpace.hf_names.items()},
        **{f"ssm_{part}_norm": f"mamba.{part}_layernorm" for part in ("dt", "b", "c")},
        "final_norm": "final_layernorm", "ffn_norm": "pre_ff_layernorm",
        **{f"ffn_{slot}": f"feed_forward.{name}_proj" for slot, name in (("gate", "gate"), ("up", "up"), ("out", "down"))},
        "moe_router_logits": "feed_forward.router",
        **dict.fromkeys(("moe_expert_gate", "moe_expert_up", "moe_expert_out"), "feed_forward.experts"),
    }  # fmt: skip
    normalises = False
    kv_heads = per_layer("attention.head_count_kv", "num_key_value_heads", lambda f: f.heads, least=0)
    recurrent = RecurrentLayers(None, kinds=(_SPACE,))
    #: Not used, and so not read of the file, which would be blamed for leaving its base out.
    rope: Reading[Rope] = Reading(lambda f: Rope(f.head_size, f.rope_base))
    conv_size = number("ssm.conv_kernel", "mamba_d_conv", least=2)
    state_size = number("ssm.state_size", "mamba_d_state")
    rank = number("ssm.time_step_rank", "mamba_dt_rank")
    inner = number("ssm.inner_size", "mamba_expand * hidden_size")
    #: Of a model without experts files say that there is one.
    experts_said = number("expert_count", "num_experts", 0, least=0, most=1 << 16)
    experts: Reading[int] = Reading(lambda f: f.experts_said if f.experts_said > 1 else 0)
    chosen = same_in_all("expert_used_count", "num_experts_per_tok", given="experts_said")
    #: By config.json, every how many layers one has experts, and which is the first. GGUF does not say it, but tensors do.
    form_numbers = ("expert_period", "expert_offset")
    expert_period = number("expert_layer_period", "expert_layer_period", 0, least=0)
    expert_offset = number("expert_layer_offset", "expert_layer_offset", 0, least=0)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With which layers have attention, and the rank of the time step, as the class makes them. One expert is none."""
        made = {name: value for name, value in fields.items() if name not in _IDLE_FIELDS}
        layers, period, offset = (
            fields.get(name, default)
            for name, default in (("num_hidden_layers", None), ("attn_layer_period", _PERIOD), ("attn_layer_offset", _OFFSET))
        )
        if made.get("num_key_value_heads", 0) is None:
            made["num_key_value_heads"] = made.get("num_attention_heads")
        if isinstance(layers, int) and isinstance(period, int) and period > 0:
            made["layer_types"] = [_ATTENTION if layer % period == offset else _SPACE for layer in range(layers)]
        hidden, rank = fields.get("hidden_size", _HIDDEN), fields.get("mamba_dt_rank", "auto")
        if rank == "auto" and isinstance(hidden, int):
            made["mamba_dt_rank"] = math.ceil(hidden / _COLUMNS_A_RANK)
        if fields.get("num_experts", fields.get("num_local_experts", _EXPERTS)) == 1:
            made |= {"expert_layer_period": 0, "expert_layer_offset": 0}
        if made.get("mamba_inner_layernorms") is True:
            made.pop("mamba_inner_layernorms")
        return without_kv_heads(made, (_SPACE,))

    def default_expert_ffn(self) -> int:
        """That of the dense networks."""
        return self.ffn[0]

    def rope_angles(self, g: GraphBuilder) -> None:
        """There is no RoPE."""

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """As it is."""
        return x

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """A state space, or in some layers attention."""
        return self.state_space(g, x) if self.recurrent[layer] else super().attention(g, x, layer)

    def normed(self, g: GraphBuilder, part: str, x: str) -> str:
        """After a norm."""
        return g.norm(f"ssm_{part}_norm", x)

    def feed_forward(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Experts where the layer has a router, else a dense network. Raises ModelError where config.json says otherwise."""
        has_router = g.has("moe_router_logits")
        if has_router and not self.experts:
            raise ModelError(
                f"{self.metadata.path}: layer {layer} has a router ({g.tensor_name('moe_router_logits')}), but "
                f"{self.named('expert_count')} is {self.experts_said}; expected the number of its experts"
            )
        if self.expert_period and has_router != (layer % self.expert_period == self.expert_offset):
            there, said = ("experts", "a dense network") if has_router else ("a dense network", "experts")
            raise ModelError(
                f"{self.metadata.path}: layer {layer} has {there}, but {self.named('expert_layer_period')} {self.expert_period} and "
                f"{self.named('expert_layer_offset')} {self.expert_offset} say that it has {said}"
            )
        return self.mix(g, x) if has_router else self.down(g, *self.gate_and_up(g, x, layer))
