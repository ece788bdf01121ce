"""The `falcon-h1` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import number
from aprgraph.graph.families.state_space import StateSpace

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: What the class takes for the sizes of the state space where they are left out.
_SIZES = {"mamba_d_ssm": 1024, "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_expand": 2}
#: The factors of a config.json, which conversion multiplies the weights by.
_FACTORS = (
    "attention_in_multiplier", "attention_out_multiplier", "embedding_multiplier", "key_multiplier", "lm_head_multiplier",
    "mlp_multipliers", "ssm_in_multiplier", "ssm_multipliers", "ssm_out_multiplier",
)  # fmt: skip
#: What all columns of a stage are multiplied by where the class does it behind the module: the field, and which of its numbers.
_BEHIND = {
    "attn_out": ("attention_out_multiplier", None), "ssm_out": ("ssm_out_multiplier", None), "ffn_gate": ("mlp_multipliers", 0),
    "ffn_out": ("mlp_multipliers", 1), "lm_head": ("lm_head_multiplier", None),
}  # fmt: skip


class FalconH1(StateSpace, Decoder):
    """Falcon-H1 (arXiv:2507.22448): a state space beside attention in every layer, both reading one norm; conversion multiplies the
    weights by the factors of a checkpoint.
    """

    architecture = "falcon-h1"
    hf_classes = "FalconH1ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {
        **{slot: name.replace("mixer.", "mamba.") for slot, name in StateSpace.hf_names.items()},
        "ffn_norm": "pre_ff_layernorm", "final_norm": "final_layernorm", "ffn_gate": "feed_forward.gate_proj",
        "ffn_up": "feed_forward.up_proj", "ffn_out": "feed_forward.down_proj",
    }  # fmt: skip
    hf_groups = ("mamba_n_groups", 1)
    conv_size = number("ssm.conv_kernel", "mamba_d_conv", least=2)
    ssm_heads = number("ssm.time_step_rank", "mamba_n_heads")
    groups = number("ssm.group_count", "mamba_n_groups")
    state_size = number("ssm.state_size", "mamba_d_state")
    inner = number("ssm.inner_size", "mamba_d_ssm")

    @classmethod
    def tensor_name(cls, slot: str, what: str = "weight") -> str:
        """The name in GGUF: converters leave the end of the second norm's off."""
        name = super().tensor_name(slot, what)
        return name.removesuffix(".weight") if slot == "ffn_norm" else name

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the factors, which the weights are multiplied by, and without what repeats sizes. Raises UnsupportedModelError.

        A head that is tied to the embedding would have both factors.
        """
        if fields.get("tie_word_embeddings") and fields.get("embedding_multiplier", 1.0) != fields.get("lm_head_multiplier", 1.0):
            raise UnsupportedModelError(
                "config.json: tie_word_embeddings is true, and embedding_multiplier is not lm_head_multiplier; supported is a head that "
                "is tied to the embedding with the same factor, or one of its own"
            )
        made = {name: value for name, value in fields.items() if name not in _FACTORS}
        inner, heads = cls.inner_of(fields), fields.get("mamba_n_heads", _SIZES["mamba_n_heads"])
        if made.get("mamba_d_ssm", 0) is None:
            made["mamba_d_ssm"] = inner
        made.pop("mamba_expand", None)  # by which the class makes that
        if made.get("mamba_d_head", "auto") == "auto" or (isinstance(heads, int) and made["mamba_d_head"] == inner / max(heads, 1)):
            made.pop("mamba_d_head", None)
        before = made.pop("mamba_norm_before_gate", True)
        return {**made, "mamba_norm_before_gate": before} if made.get("mamba_rms_norm") else made

    @classmethod
    def inner_of(cls, config: Mapping[str, Any]) -> int:
        """The columns of all heads, by config.json; 0 where it does not say."""
        size = config.get("mamba_d_ssm", _SIZES["mamba_d_ssm"])
        if size is None:
            hidden, expand = config.get("hidden_size"), config.get("mamba_expand", _SIZES["mamba_expand"])
            size = hidden * expand if isinstance(hidden, int) and isinstance(expand, int) else 0
        return size if isinstance(size, int) else 0

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """GGUF has the weights times the factors."""
        factor = _factor(slot, config, what)
        if np.all(factor == 1):
            return super().conversions(slot, config, what)
        column = factor[:, None] if factor.ndim and what == "weight" else factor
        return {slot: Conversion(values=lambda values: values.astype(np.float32) * column)}

    @classmethod
    def column_factors(cls, stage: str, config: Mapping[str, Any]) -> npt.NDArray[np.float32] | None:
        """The factors that the class multiplies by behind the module."""
        if stage in ("qkv_matmul", "qkv_bias"):
            heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
            size = config.get("head_dim") or config["hidden_size"] // heads
            counts = [count * size for count in (heads, kv_heads, kv_heads)]
            return np.repeat(np.array([1, config["key_multiplier"], 1], np.float32), counts)
        if stage in ("ssm_gate", "conv_in"):
            columns = _of_parts(config)
            inner, heads = cls.inner_of(config), config["mamba_n_heads"]
            return columns[:inner] if stage == "ssm_gate" else columns[inner : len(columns) - heads]
        return None if stage not in _BEHIND else _given(config, *_BEHIND[stage])

    # -- the graph ----------------------------------------------------------------------------------------------------

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention and a state space side by side, then a feed-forward network."""
        normed = g.norm("attn_norm", x)
        space, attention = self.state_space(g, normed, "ssm_out"), self.attention(g, normed, layer)
        x = g.add("post_attn_residual", x, g.inner("mixed", "add", space, attention))
        return g.add("post_ffn_residual", x, self.feed_forward(g, g.norm("ffn_norm", x), layer))

    def gated_space(self, g: GraphBuilder, read: str, gate: str) -> str:
        """What the state space gives times the gate, with a norm behind it in some models."""
        if g.has("ssm_norm"):
            return super().gated_space(g, read, gate)
        return g.apply("ssm_gated", "mul", read, g.inner("ssm_gate_open", "silu", gate))


def _given(config: Mapping[str, Any], field: str, index: int | None = None) -> npt.NDArray[np.float32]:
    value = config.get(field)
    if value is not None and index is not None:
        value = value[index]
    return np.array(1 if value is None else value, np.float32)


def _of_parts(config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """What the columns of the gate, of x, B and C, and of the steps are multiplied by."""
    sizes = _SIZES | {name: config[name] for name in _SIZES if config.get(name) is not None}
    inner, keys = FalconH1.inner_of(config), sizes["mamba_n_groups"] * sizes["mamba_d_state"]
    return np.repeat(_given(config, "ssm_multipliers") * np.ones(5, np.float32), [inner, inner, keys, keys, sizes["mamba_n_heads"]])


def _factor(slot: str, config: Mapping[str, Any], what: str) -> npt.NDArray[np.float32]:
    """What conversion multiplies a tensor by: a number, or one for each row. A factor of the input takes no part in a bias."""
    own = np.float32(1)
    factors: dict[str, tuple[str, npt.NDArray[np.float32]]] = {
        "embedding": ("", _given(config, "embedding_multiplier")),
        "q": ("attention_in_multiplier", np.array(own)),
        "k": ("attention_in_multiplier", _given(config, "key_multiplier")),
        "v": ("attention_in_multiplier", np.array(own)),
        "ssm_in": ("ssm_in_multiplier", _of_parts(config)),
        **{name: ("", _given(config, *where)) for name, where in _BEHIND.items()},
    }
    of_input, of_output = factors.get(slot, ("", np.array(own)))
    return of_output * (_given(config, of_input) if of_input and what == "weight" else own)
