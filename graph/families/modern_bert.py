"""The `modern-bert` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.encoder import read_activation
from aprgraph.graph.families.numbers import Reading, flag, real
from aprgraph.graph.families.rope_scaling import Rope, read_sliding_rope
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

_KINDS = ("full_attention", "sliding_attention")
#: RoPE's bases of layers that see everything, and of those with a window; and every how many layers one sees everything.
_BASE, _SLIDING_BASE, _PERIOD = 160_000.0, 10_000.0, 3


class ModernBert(Decoder):
    """ModernBERT, Granite Embedding R2 (arXiv:2412.13663): an encoder with windows to both sides and a RoPE base of their own in two of
    three layers, norms before attention and network, gated networks, and no biases.

    The first layer reads the embedding's norm as it is. Gate and up come as one tensor. Where a file says `gelu`, that is GELU by erf,
    as in transformers, and llama.cpp takes GELU by tanh.
    """

    architecture = "modern-bert"
    hf_classes = "ModernBertModel"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_root, hf_layers = "", "layers"
    hf_names = {
        "embedding": "embeddings.tok_embeddings", "embedding_norm": "embeddings.norm", "attn_norm": "attn_norm",
        "qkv_matmul": "attn.Wqkv", "attn_out": "attn.Wo", "ffn_norm": "mlp_norm", "ffn_gate_up": "mlp.Wi", "ffn_out": "mlp.Wo",
        "final_norm": "final_norm",
    }  # fmt: skip
    gguf_names = {"embedding_norm": "token_embd_norm"}
    form_numbers = ("activation_op",)
    norm_op = "layer_norm"
    symmetric_windows = True
    causal = flag("attention.causal", None, False)
    eps = real("attention.layer_norm_epsilon", "norm_eps", least=0)
    rope_base = _BASE
    windows = Windows(period=_PERIOD, first=True)
    sliding_rope: Reading[Rope] = Reading(
        lambda f: read_sliding_rope(f.metadata, f.architecture, f.rope.dims, _SLIDING_BASE) if any(f.windows) else f.rope
    )
    activation_op: Reading[str] = Reading(partial(read_activation, more={"silu": "silu"}))

    @property
    def has_head(self) -> bool:
        """There is none."""
        return False

    @classmethod
    def made_fields(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The window, the layers that have it and the bases of RoPE under the names that other classes have for them."""
        made = {**super().made_fields(config), "use_bidirectional_attention": True}
        made.pop("layer_norm_eps", None)  # beside norm_eps, and not read
        made["sliding_window"] = made.pop("local_attention", made.get("sliding_window"))
        layers, period = made.get("num_hidden_layers"), made.pop("global_attn_every_n_layers", _PERIOD)
        if made.get("layer_types") is None and type(layers) is int and type(period) is int and period > 0:
            made["layer_types"] = [_KINDS[layer % period > 0] for layer in range(layers)]
        bases = made.pop("global_rope_theta", _BASE), made.pop("local_rope_theta", _SLIDING_BASE)
        if not made.get("rope_parameters"):
            made["rope_parameters"] = {kind: {"rope_type": "default", "rope_theta": base} for kind, base in zip(_KINDS, bases, strict=True)}
        return made

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The token's embedding, normalised."""
        return g.norm_embedding("embedding_norm", super().embed(g, table))

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """As in other models whose norms come first, but for the first layer's attention, which has none."""
        x = g.add("post_attn_residual", x, self.attention(g, g.norm("attn_norm", x) if layer else x, layer))
        return g.add("post_ffn_residual", x, self.feed_forward(g, g.norm("ffn_norm", x), layer))

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """One matrix product gives the columns of gate, then those of up."""
        return g.gate_and_up_in_one(x, self.ffn[layer])

    def down(self, g: GraphBuilder, gate: str, up: str, slot: str = "ffn_out") -> str:
        """The down projection of act(gate) · up."""
        product = g.apply("ffn_swigl", "mul", g.apply("ffn_silu", self.activation_op, gate), up)
        return g.linear("ffn_out", product, self.hidden, slot=slot)
