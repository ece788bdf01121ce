"""The `nemotron_h` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.errors import UnsupportedModelError, shown
from aprgraph.graph.families.numbers import Reading, number, per_layer, real
from aprgraph.graph.families.rope_scaling import Rope
from aprgraph.graph.families.state_space import StateSpace
from aprgraph.graph.families.ungated import UngatedNetwork
from aprgraph.graph.metadata import ListValue

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads

_SPACE, _ATTENTION, _NETWORK = "linear_attention", "full_attention", "mlp"
#: Kinds of layers as patterns and versions before 5 call them.
_KINDS = {"M": _SPACE, "mamba": _SPACE, "*": _ATTENTION, "attention": _ATTENTION, "-": _NETWORK}
#: What the class takes for sizes that are left out.
_KV_HEADS, _FFN = 8, 21504
#: How many positions converters say that there is room for; nothing depends on it.
_UNBOUNDED = 1 << 20


class NemotronH(StateSpace, UngatedNetwork):
    """Nemotron-H, Nemotron Nano 2 (arXiv:2504.03624): layers with a state space, attention without RoPE, or a network with a squared
    ReLU, one of the three in each.

    A layer without a network has attention where it has KV heads, and else a state space. Mixtures of experts have an
    architecture of their own.
    """

    architecture = "nemotron_h"
    hf_classes = "NemotronHForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_rope = ""
    hf_names = {
        **StateSpace.hf_names,
        "embedding": "embeddings", "final_norm": "norm_f", "attn_norm": "norm", "q": "mixer.q_proj", "k": "mixer.k_proj",
        "v": "mixer.v_proj", "attn_out": "mixer.o_proj", "ffn_up": "mixer.up_proj", "ffn_out": "mixer.down_proj",
    }  # fmt: skip
    hf_renamed = {"backbone.": "model."}
    activation = "relu_squared"
    #: What files without an epsilon of RMSNorms have in its place.
    other_eps = real("attention.layer_norm_epsilon", None, 1e-5, least=0)
    eps = real("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", lambda f: f.other_eps, least=0)
    kv_heads = per_layer("attention.head_count_kv", "num_key_value_heads", lambda f: f.heads, least=0)
    ffn = per_layer("feed_forward_length", "intermediate_size", least=0)
    #: Not used, and so not read of the file, which would be blamed for leaving its base out.
    rope: Reading[Rope] = Reading(lambda f: Rope(f.head_size, f.rope_base))
    conv_size = number("ssm.conv_kernel", "conv_kernel", least=2)
    ssm_heads = number("ssm.time_step_rank", "mamba_num_heads")
    state_size = number("ssm.state_size", "ssm_state_size")
    inner = number("ssm.inner_size", "mamba_num_heads * mamba_head_dim")

    @classmethod
    def small_numbers(cls, numbers: Mapping[str, Any]) -> Mapping[str, object]:
        """A state space, attention, and a network, in turn."""
        layers, heads, size = (numbers[key] for key in ("block_count", "attention.head_count_kv", "feed_forward_length"))
        return {
            "attention.head_count_kv": ListValue([heads * (layer % 3 == 1) for layer in range(layers)]),
            "feed_forward_length": ListValue([size * (layer % 3 == 2) for layer in range(layers)]),
        }

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the numbers of KV heads and of rows of the network for each layer, 0 where it has another kind of part.

        Raises UnsupportedModelError for experts.
        """
        made = dict(fields)
        pattern, listed = made.pop("hybrid_override_pattern", None), made.pop("layer_types", None)
        kinds = made.pop("layers_block_type", None) or listed or pattern
        if isinstance(kinds, (str, list)):
            kinds = [_KINDS.get(kind, kind) if isinstance(kind, str) else kind for kind in kinds]
            unknown = next((kind for kind in kinds if kind not in (_SPACE, _ATTENTION, _NETWORK)), None)
            if unknown is not None:
                raise UnsupportedModelError(
                    f"config.json: a layer is of the kind {shown(unknown)}; supported are {_SPACE}, {_ATTENTION} and {_NETWORK}, "
                    "and no experts"
                )
            made["num_hidden_layers"] = len(kinds)
            heads, size = made.get("num_key_value_heads", _KV_HEADS), made.get("intermediate_size", _FFN)
            heads = made.get("num_attention_heads") if heads is None else heads
            made["num_key_value_heads"] = [heads if kind == _ATTENTION else 0 for kind in kinds]
            made["intermediate_size"] = [size if kind == _NETWORK else 0 for kind in kinds]
        made["max_position_embeddings"] = _UNBOUNDED
        made["hidden_act"] = made.pop("mlp_hidden_act", "relu2")
        if made.get("rms_norm_eps", 0) == made.get("layer_norm_epsilon", 1e-5):  # which the class does not read
            made.pop("rms_norm_eps")
        if made.get("mamba_hidden_act", "silu") == "silu":
            made.pop("mamba_hidden_act", None)
        return made

    @classmethod
    def inner_of(cls, config: Mapping[str, Any]) -> int:
        """The columns of all heads, by config.json; 0 where it does not say."""
        heads, size = config.get("mamba_num_heads", 128), config.get("mamba_head_dim", 64)
        return heads * size if isinstance(heads, int) and isinstance(size, int) else 0

    def rope_angles(self, g: GraphBuilder) -> None:
        """There is no RoPE."""

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """As it is."""
        return x

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """One norm, and one of the three parts."""
        normed = g.norm("attn_norm", x)
        if self.ffn[layer]:
            part = self.feed_forward(g, normed, layer)
        else:
            part = self.attention(g, normed, layer) if self.kv_heads[layer] else self.state_space(g, normed)
        return g.add("post_ffn_residual", x, part)
