"""The `granitehybrid` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.granitemoe import GraniteExperts
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


class GraniteHybrid(StateSpace, GraniteExperts):
    """Granite 4 with recurrent layers (IBM, 2025): Granite with state spaces in most layers, with experts beside a shared
    one, or dense; most have no RoPE.
    """

    architecture = "granitehybrid"
    hf_classes = "GraniteMoeHybridForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {
        **{slot: name.replace("mixer.", "mamba.") for slot, name in StateSpace.hf_names.items()},
        **GraniteExperts.hf_names,
    }
    hf_groups = ("mamba_n_groups", 1)
    hf_shared = _SHARED
    kv_heads = per_layer("attention.head_count_kv", "num_key_value_heads", lambda f: f.heads, least=0)
    recurrent = RecurrentLayers(None, kinds=_RECURRENT)
    has_rope = flag("rope.scaling.finetuned", "position_embedding_type", True)
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

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """A state space, or in some layers attention."""
        return self.state_space(g, x) if self.recurrent[layer] else super().attention(g, x, layer)
