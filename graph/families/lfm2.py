"""The `lfm2` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from aprgraph.graph.families.numbers import number, per_layer, real
from aprgraph.graph.families.qwen3 import Qwen3
from aprgraph.graph.families.recurrent import RecurrentLayers, without_kv_heads
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: Of recurrent layers, in `layer_types`.
_KINDS = ("conv",)
#: Fields of published models that say what others say, which are those that the class reads.
_REPEATED = {
    **dict.fromkeys(("block_dim", "conv_dim", "conv_dim_out"), "hidden_size"),
    "num_heads": "num_attention_heads", "block_norm_eps": "norm_eps",
}  # fmt: skip


class Lfm2(Qwen3):
    """LFM2, dense (arXiv:2511.23404): gated short convolutions in most layers, and in the others attention whose heads of q and k
    are normalised before RoPE.
    """

    architecture = "lfm2"
    hf_classes = "Lfm2ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {
        "final_norm": "token_embd_norm",
        "conv_bcx": "shortconv.in_proj",
        "conv_out": "shortconv.conv",
        "short_conv_out": "shortconv.out_proj",
    }
    hf_names = {
        "final_norm": "embedding_norm",
        "attn_norm": "operator_norm",
        "conv_bcx": "conv.in_proj",
        "conv_out": "conv.conv",
        "short_conv_out": "conv.out_proj",
        "q_norm": "self_attn.q_layernorm",
        "k_norm": "self_attn.k_layernorm",
        "attn_out": "self_attn.out_proj",
        "ffn_norm": "ffn_norm",
        "ffn_gate": "feed_forward.w1",
        "ffn_up": "feed_forward.w3",
        "ffn_out": "feed_forward.w2",
    }
    rope_base = 1_000_000.0
    eps = real("attention.layer_norm_rms_epsilon", "norm_eps", least=0)
    kv_heads = per_layer("attention.head_count_kv", "num_key_value_heads", lambda f: f.heads, least=0)
    recurrent = RecurrentLayers(None, kinds=_KINDS)
    #: Whether config.json gives one and a half times the size of the network, where it does not say so.
    adjusts: ClassVar[bool] = True
    #: The positions that the convolution reads.
    conv_size = number("shortconv.l_cache", "conv_L_cache", least=2)
    windows = Windows(period=0)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without what repeats other fields; the size of the network, and which layers have attention, as the class makes them."""
        made = {name: value for name, value in fields.items() if name not in _REPEATED or value != fields.get(_REPEATED[name])}
        size, adjusts = made.pop("block_ff_dim", made.get("intermediate_size")), made.pop("block_auto_adjust_ff_dim", cls.adjusts)
        factor, unit = made.pop("block_ffn_dim_multiplier", None), made.pop("block_multiple_of", 256)
        if adjusts and isinstance(size, int) and isinstance(unit, int) and unit > 0:
            size = -(-int((1.0 if factor is None else factor) * int(2 * size / 3)) // unit) * unit
        layers, full = made.get("num_hidden_layers"), made.pop("full_attn_idxs", None)
        if made.get("layer_types") is None and isinstance(layers, int):
            made["layer_types"] = ["full_attention" if full is None or layer in full else "conv" for layer in range(layers)]
        return without_kv_heads(made | {"intermediate_size": size}, _KINDS)

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """A gated short convolution, or in some layers attention."""
        return self.gated_convolution(g, x) if self.recurrent[layer] else super().attention(g, x, layer)

    def gated_convolution(self, g: GraphBuilder, x: str) -> str:
        """C · conv(B · x), where B, C and x are projections."""
        hidden = self.hidden
        both = g.linear("conv_bcx", x, 3 * hidden)
        b, c, value = (g.inner(f"conv_{name}", "columns", both, start=i * hidden, stop=(i + 1) * hidden) for i, name in enumerate("bcx"))
        weights = [g.weight("conv_out", hidden, self.conv_size), *g.biases(("conv_out", hidden))]
        conv = g.apply("conv_out", "short_conv", g.apply("conv_bx", "mul", b, value), *weights)
        return g.linear("attn_out", g.apply("conv_gated", "mul", c, conv), hidden, slot="short_conv_out")
