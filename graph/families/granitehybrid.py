"""The `granitehybrid` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.granite import Granite
from aprgraph.graph.families.numbers import flag, number, per_layer
from aprgraph.graph.families.recurrent import RecurrentLayers, without_kv_heads
from aprgraph.graph.families.state_space import StateSpace

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: In `layer_types` of transformers, and as versions before 5 call them.
_KINDS = {"mamba": "linear_attention", "attention": "full_attention"}
_RECURRENT = ("linear_attention",)
#: What the class takes for these fields where they are left out.
_EXPERTS, _SHARED, _HEADS, _EXPAND = 8, 1024, 128, 2
#: How many positions converters say that models without RoPE have room for; nothing depends on what config.json says.
_UNBOUNDED = 1 << 20
#: The slot of gate and up in one, which no GGUF file has.
_JOINED = "shared_gate_up"
_BOTH, _OUT = "shared_mlp.input_linear", "shared_mlp.output_linear"


class GraniteHybrid(StateSpace, Granite):
    """Granite 4 with recurrent layers (IBM, 2025): Granite with state spaces in most layers, with experts beside a shared
    one, or dense; most have no RoPE.
    """

    architecture = "granitehybrid"
    hf_classes = "GraniteMoeHybridForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {
        **{slot: name.replace("mixer.", "mamba.") for slot, name in StateSpace.hf_names.items()},
        _JOINED: _BOTH,
        "shared_out": _OUT,
        **dict.fromkeys(("shared_gate", "shared_up", "ffn_gate", "ffn_up"), _BOTH),
        "ffn_out": _OUT,
        "moe_router_logits": "block_sparse_moe.router",
        **dict.fromkeys(("moe_expert_gate", "moe_expert_up", "moe_expert_out"), "block_sparse_moe.experts"),
    }
    hf_groups = ("mamba_n_groups", 1)
    kv_heads = per_layer("attention.head_count_kv", "num_key_value_heads", lambda f: f.heads, least=0)
    recurrent = RecurrentLayers(None, kinds=_RECURRENT)
    has_rope = flag("rope.scaling.finetuned", "position_embedding_type", True)
    shared_ffn = number("expert_shared_feed_forward_length", "shared_intermediate_size", 0, least=0)
    conv_size = number("ssm.conv_kernel", "mamba_d_conv", least=2)
    ssm_heads = number("ssm.time_step_rank", "mamba_n_heads")
    groups = number("ssm.group_count", "mamba_n_groups")
    state_size = number("ssm.state_size", "mamba_d_state")
    inner = number("ssm.inner_size", "mamba_n_heads * mamba_d_head")

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The kinds of the layers as they are called now, whether there is RoPE, and the sizes of heads and of a dense network."""
        made = dict(fields)
        kinds = made.pop("layers_block_type", None) or made.get("layer_types")
        if kinds is None and isinstance(made.get("num_hidden_layers"), int):
            kinds = list(_RECURRENT) * made["num_hidden_layers"]
        if isinstance(kinds, list):
            kinds = [_KINDS.get(kind, kind) if isinstance(kind, str) else kind for kind in kinds]
        made["layer_types"] = kinds
        made["position_embedding_type"] = made.get("position_embedding_type") == "rope"
        if not made["position_embedding_type"]:
            made["max_position_embeddings"] = _UNBOUNDED
        heads, inner = made.get("mamba_n_heads", _HEADS), cls.inner_of(fields)
        if made.get("mamba_d_head", "auto") == "auto" and isinstance(heads, int) and heads > 0:
            made["mamba_d_head"] = inner // heads
        if isinstance(heads, int) and made.get("mamba_d_head") == inner / max(heads, 1):
            made.pop("mamba_expand", None)
        if made.get("num_local_experts", _EXPERTS) == 0:
            made["intermediate_size"] = made.get("shared_intermediate_size", _SHARED)
        return without_kv_heads(made, _RECURRENT)

    @classmethod
    def inner_of(cls, config: Mapping[str, Any]) -> int:
        """The columns of all heads, by config.json; 0 where it does not say."""
        hidden, expand = config.get("hidden_size"), config.get("mamba_expand", _EXPAND)
        return hidden * expand if isinstance(hidden, int) and isinstance(expand, int) else 0

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """GGUF has gate and up apart, and the one network of a model without experts is not called shared."""
        prefix = "shared" if config.get("num_local_experts", _EXPERTS) else "ffn"
        if slot == "shared_out":
            return {f"{prefix}_out": Conversion()}
        size = config.get("shared_intermediate_size", _SHARED)
        if slot == _JOINED and isinstance(size, int):
            return {f"{prefix}_{part}": Conversion(np.arange(size) + start) for part, start in (("gate", 0), ("up", size))}
        return super().conversions(slot, config, what)

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """A state space, or in some layers attention."""
        return self.state_space(g, x) if self.recurrent[layer] else super().attention(g, x, layer)

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """The gate projection and the up projection, in transformers of one weight."""
        return g.gate_and_up_in_one(x, self.ffn[layer], _JOINED) if g.has(_JOINED) else super().gate_and_up(g, x, layer)

    def shared_expert(self, g: GraphBuilder, x: str) -> str:
        """The output of the expert that every position uses."""
        if not g.has(_JOINED):
            return super().shared_expert(g, x)
        return self.down(g, *g.gate_and_up_in_one(x, self.shared_ffn, _JOINED), slot="shared_out")
