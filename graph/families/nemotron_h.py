"""The `nemotron_h` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from aprgraph.graph.errors import UnsupportedModelError, shown
from aprgraph.graph.families.mixture import SIGMOID, Mixture
from aprgraph.graph.families.numbers import Reading, number, per_layer, real, same_in_all
from aprgraph.graph.families.rope_scaling import Rope
from aprgraph.graph.families.state_space import StateSpace
from aprgraph.graph.families.ungated import UngatedNetwork
from aprgraph.graph.metadata import ListValue

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads
    from aprgraph.graph.families.base import Family

_SPACE, _ATTENTION, _NETWORK, _EXPERTS = "linear_attention", "full_attention", "mlp", "moe"
#: Kinds of layers as patterns and versions before 5 call them.
_KINDS = {"M": _SPACE, "mamba": _SPACE, "*": _ATTENTION, "attention": _ATTENTION, "-": _NETWORK, "E": _EXPERTS}
#: What the class takes for the number of KV heads where it is left out.
_KV_HEADS = 8
#: How many positions converters say that there is room for; nothing depends on it.
_UNBOUNDED = 1 << 20


#: Fields that say the kinds of the layers: each counts before the next.
_KIND_FIELDS = ("layers_block_type", "layer_types", "hybrid_override_pattern")

#: Fields that the class does not read, or that change no number.
_IDLE_FIELDS = ("expand", "n_shared_experts", "moe_shared_expert_overlap")
#: Fields of experts, which configurations have without any too.
_EXPERT_FIELDS = (
    "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "moe_shared_expert_intermediate_size", "moe_latent_size",
    "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group",
)  # fmt: skip


def _kinds(fields: Mapping[str, Any]) -> list[Any] | None:
    """The kinds of the layers, by config.json, under their names of today; None where it does not say them."""
    kinds = next((fields[name] for name in _KIND_FIELDS if fields.get(name)), None)
    if not isinstance(kinds, (str, list)):
        return None
    return [_KINDS.get(kind, kind) if isinstance(kind, str) else kind for kind in kinds]


class NemotronH(StateSpace, UngatedNetwork):
    """Nemotron-H, Nemotron Nano 2 (arXiv:2504.03624): layers with a state space, attention without RoPE, or a network with a squared
    ReLU, one of the three in each.

    A layer without a network has attention where it has KV heads, and else a state space.
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
    #: The kind of the layers with a network, the field of config.json with its size, and what the class takes without.
    hf_network: ClassVar[tuple[str, str, int]] = (_NETWORK, "intermediate_size", 21504)
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
    def of_config(cls, config: Mapping[str, Any]) -> type[Family]:
        """The one with experts, where a layer has some."""
        return NemotronHMoe if _EXPERTS in (_kinds(config) or ()) else NemotronH

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the numbers of KV heads and of rows of the network for each layer, 0 where it has another kind of part.

        Raises UnsupportedModelError for a layer of a kind that the family does not have.
        """
        kinds, (network, field, default) = _kinds(fields), cls.hf_network
        left_out = (*_KIND_FIELDS, *_IDLE_FIELDS, *(() if network == _EXPERTS else _EXPERT_FIELDS))
        made = {name: value for name, value in fields.items() if name not in left_out}
        if kinds is not None:
            unknown = next((kind for kind in kinds if kind not in (_SPACE, _ATTENTION, network)), None)
            if unknown is not None:
                beside = f" beside {_EXPERTS}" if network == _EXPERTS else ""
                raise UnsupportedModelError(
                    f"config.json: a layer is of the kind {shown(unknown)}; supported{beside} are {_SPACE} and {_ATTENTION}"
                    + (f", {_NETWORK}, or {_EXPERTS} in place of it" if network == _NETWORK else "")
                )
            made["num_hidden_layers"] = len(kinds)
            heads, size = made.get("num_key_value_heads", _KV_HEADS), made.get(field, default)
            heads = made.get("num_attention_heads") if heads is None else heads
            made["num_key_value_heads"] = [heads if kind == _ATTENTION else 0 for kind in kinds]
            made["intermediate_size"] = [size if kind == network else 0 for kind in kinds]
        made["max_position_embeddings"] = _UNBOUNDED
        made["hidden_act"] = made.pop("mlp_hidden_act", "relu2")
        for name in ("rms_norm_eps", "norm_eps"):  # which the class does not read
            if made.get(name, 0) == made.get("layer_norm_epsilon", 1e-5):
                made.pop(name)
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


class NemotronHMoe(Mixture, NemotronH):
    """Nemotron 3 Nano and Super (arXiv:2512.20856): Nemotron-H with experts in place of the networks, without gates and beside a shared
    one; in Super they read a latent of the layer's input, and their sum is projected back.

    They are chosen by sigmoids with a bias. All layers with a network have experts.
    """

    architecture = "nemotron_h_moe"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {
        **NemotronH.gguf_names,
        "moe_router_scores": "exp_probs_b", "moe_latent": "ffn_latent_down", "moe_latent_out": "ffn_latent_up",
    }  # fmt: skip
    hf_names = {
        **NemotronH.hf_names,
        "moe_router_logits": "mixer.gate", "moe_router_scores": "mixer.gate.e_score_correction_bias",
        **dict.fromkeys(("moe_expert_up", "moe_expert_out"), "mixer.experts"),
        "shared_up": "mixer.shared_experts.up_proj", "shared_out": "mixer.shared_experts.down_proj",
        "moe_latent": "mixer.fc1_latent_proj", "moe_latent_out": "mixer.fc2_latent_proj",
    }  # fmt: skip
    hf_network = (_EXPERTS, "moe_intermediate_size", 7688)
    gating_function = SIGMOID
    experts = number("expert_count", "n_routed_experts", most=1 << 16)
    expert_ffn = same_in_all("expert_feed_forward_length", "moe_intermediate_size")
    expert_scale = real("expert_weights_scale", "routed_scaling_factor", 1.0)
    shared_ffn = number("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size", lambda f: f.expert_ffn)
    #: The size of the latent that experts read; 0 for none.
    latent = number("moe_latent_size", "moe_latent_size", 0, least=0)

    @property
    def expert_width(self) -> int:
        """The size of the latent, where there is one."""
        return self.latent or self.hidden

    def expert_input(self, g: GraphBuilder, x: str) -> str:
        """The latent of what the layer's experts are given, which the router and the shared expert read itself."""
        return g.linear("moe_latent", x, self.latent) if self.latent else x

    def sum_experts(self, g: GraphBuilder, *terms: str) -> str:
        """The weighted sum, projected back where it is of latents."""
        if not self.latent:
            return super().sum_experts(g, *terms)
        return g.linear("moe_latent_out", g.apply("moe_latent_sum", "expert_sum", *terms), self.hidden)

    def choose_by(self, g: GraphBuilder, scores: str) -> str:
        """The sigmoids of the scores, plus a bias that takes no part in the weights."""
        return self.biased_sigmoids(g, scores, needs_bias=True)

    def expert_product(self, g: GraphBuilder, x: str, ids: str) -> str:
        """The activation of the up projections."""
        up = g.expert_linear("moe_expert_up", x, ids, self.experts, self.expert_ffn)
        return g.apply("moe_expert_swigl", self.activation, up)

    def shared_expert(self, g: GraphBuilder, x: str) -> str:
        """The output of the expert that every position uses, which has no gate either."""
        activated = g.apply("ffn_swigl", self.activation, g.linear("ffn_up", x, self.shared_ffn, slot="shared_up"))
        return g.linear("ffn_out", activated, self.hidden, slot="shared_out")
