"""The decoder-only transformer that families are variants of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.base import Family
from aprgraph.graph.families.numbers import Reading, number, per_layer, real
from aprgraph.graph.families.rope_scaling import Rope, read_rope

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads

_MAX_HEADS = 1 << 16


class Decoder(Family):
    """A stack of layers over one residual stream; what a layer is, is that of Llama (arXiv:2302.13971) unless a family says otherwise."""

    #: Whether files must have biases of q, k and v. Those that are there are used in any case.
    qkv_bias: ClassVar[bool] = False

    heads = per_layer("attention.head_count", "num_attention_heads")
    kv_heads = per_layer("attention.head_count_kv", "num_key_value_heads", lambda f: f.heads)
    head_size = number("attention.key_length", "head_dim", lambda f: f.default_head_size())
    value_size = number("attention.value_length", None, lambda f: f.head_size)
    original_context = number("rope.scaling.original_context_length", None, lambda f: f.context)
    rope: Reading[Rope] = Reading(lambda f: read_rope(f.metadata, f.architecture, f.head_size, f.rope_base, f.original_context))
    #: RoPE of the layers with a window.
    sliding_rope: Reading[Rope] = Reading(lambda f: f.rope)
    ffn = per_layer("feed_forward_length", "intermediate_size")
    scale = real("attention.scale", None, lambda f: 1 / math.sqrt(f.head_size))

    def check(self) -> None:
        """Query heads divide among KV heads."""
        key, kv_key = self.key("attention.head_count"), self.key("attention.head_count_kv")
        for layer, (count, kv_count) in enumerate(zip(self.heads, self.kv_heads, strict=True)):
            if count > _MAX_HEADS or count % kv_count:
                where = "" if len(set(self.heads)) == len(set(self.kv_heads)) == 1 else f" in layer {layer}"
                raise ModelError(
                    f"{self.metadata.path}: {count} query heads ({key}) do not divide among {kv_count} KV heads ({kv_key}){where}"
                )

    def default_head_size(self) -> int:
        """E / H. Raises ModelError if that is no whole number."""
        heads, key = self.heads[0], self.key("attention.key_length")
        if key not in self.metadata and self.hidden % heads:
            raise ModelError(
                f"{self.metadata.path}: {self.key('embedding_length')} {self.hidden} is not a multiple of "
                f"{self.key('attention.head_count')} {heads}, and {key} is not given"
            )
        return max(self.hidden // heads, 1)

    # -- the graph ----------------------------------------------------------------------------------------------------

    def graph(self, g: GraphBuilder) -> str:
        """From token ids to the logits of the last position."""
        table = g.embedding_table(self.hidden)
        self.turn_angles(g)
        x = self.embed(g, table)
        for layer in g.layers(self.layers):
            x = self.layer(g, x, layer)
        return self.logits(g, g.last(g.norm("final_norm", x)))

    def turn_angles(self, g: GraphBuilder) -> None:
        """The angles by which RoPE turns each position, in either kind of layers."""
        g.angles("rope_angles", self.rope, g.frequency_factors(self.rope, self.original_context))
        if any(self.windows) and self.sliding_rope != self.rope:
            g.angles("rope_angles_sliding", self.sliding_rope)

    def angles_of(self, layer: int) -> str:
        """The angles of a layer."""
        return "rope_angles_sliding" if self.windows[layer] and self.sliding_rope != self.rope else "rope_angles"

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The first residual stream."""
        return g.embed("embedding", table)

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention, then a feed-forward network, each of what is normalised, added to the residual stream."""
        x = g.add("post_attn_residual", x, self.attention(g, g.norm("attn_norm", x), layer))
        return g.add("post_ffn_residual", x, self.feed_forward(g, g.norm("ffn_norm", x), layer))

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention of many query heads to fewer KV heads (arXiv:2305.13245), masked by the layer's window."""
        q, k, v = self.project(g, x, layer)
        q, k = self.turn(g, q, layer), self.turn(g, k, layer)
        mixed = g.attend(q, k, v, scale=self.scale, window=self.windows[layer], causal=self.causal, **self.attention_extras(g))
        return g.linear("attn_out", mixed, self.hidden)

    def attention_extras(self, g: GraphBuilder) -> Mapping[str, Any]:
        """What else ``GraphBuilder.attend`` is told."""
        return {}

    def project(self, g: GraphBuilder, x: str, layer: int) -> Sequence[Heads]:
        """q, k and v, side by side."""
        heads, kv_heads = self.heads[layer], self.kv_heads[layer]
        return g.qkv(x, heads, kv_heads, self.head_size, self.value_size, needs_bias=self.qkv_bias)

    def turn(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """Heads of q or k after RoPE."""
        return g.rope(x, self.angles_of(layer), self.pairing)

    def feed_forward(self, g: GraphBuilder, x: str, layer: int) -> str:
        """A gated network (Shazeer 2020, arXiv:2002.05202)."""
        return self.down(g, *self.gate_and_up(g, x, layer))

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """The two projections of a gated network."""
        return g.linear("ffn_gate", x, self.ffn[layer]), g.linear("ffn_up", x, self.ffn[layer])

    def down(self, g: GraphBuilder, gate: str, up: str, slot: str = "ffn_out") -> str:
        """What a gated network makes of its gate: act(gate) · up, projected back."""
        product = g.apply("ffn_swigl", "mul", g.apply("ffn_silu", self.activation, gate), up)
        return g.linear("ffn_out", product, self.hidden, slot=slot)

    def logits(self, g: GraphBuilder, x: str) -> str:
        """The head, which is the embedding table where a file has none of its own."""
        return g.head("lm_head", x)
