"""The decoder-only transformer: what the families share, in methods that a family overrides where it differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.numbers import Reading, number, per_layer, real
from aprgraph.graph.families.pooling import DENSE_SLOTS, Pooled
from aprgraph.graph.families.rope_scaling import Rope, read_rope

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads

_MAX_HEADS = 1 << 16


class Decoder(Pooled):
    """A stack of layers over one residual stream.

    The layers are those of Llama (arXiv:2302.13971). A family overrides the methods of the parts in which it differs.
    """

    #: Whether a file must have biases of q, k and v. If it has them, they are always used.
    qkv_bias: ClassVar[bool] = False
    #: Whether windows of a model that is not causal reach as far behind a position as before it.
    symmetric_windows: ClassVar[bool] = False
    #: Whether YaRN's bounds are rounded to whole pairs.
    whole_pairs: ClassVar[bool] = True
    #: Whether a config.json of LongRoPE says itself what cosines and sines are multiplied by.
    hf_magnitudes: ClassVar[bool] = False

    heads = per_layer("attention.head_count", "num_attention_heads")
    kv_heads = per_layer("attention.head_count_kv", "num_key_value_heads", lambda f: f.heads)
    head_size = number("attention.key_length", "head_dim", lambda f: f.default_head_size())
    value_size = number("attention.value_length", None, lambda f: f.head_size)
    original_context = number("rope.scaling.original_context_length", None, lambda f: f.context)
    rope: Reading[Rope] = Reading(
        lambda f: read_rope(f.metadata, f.architecture, f.head_size, f.rope_base, f.original_context, whole_pairs=f.whole_pairs)
    )
    #: RoPE of the layers with a sliding window.
    sliding_rope: Reading[Rope] = Reading(lambda f: f.rope)
    ffn = per_layer("feed_forward_length", "intermediate_size")
    scale = real("attention.scale", None, lambda f: 1 / math.sqrt(f.head_size))

    def check(self) -> None:
        """Raise ModelError unless each layer has a whole number of query heads for each KV head."""
        key, kv_key = self.named("attention.head_count"), self.named("attention.head_count_kv")
        for layer, (count, kv_count) in enumerate(zip(self.heads, self.kv_heads, strict=True)):
            if count > _MAX_HEADS or (kv_count and count % kv_count):  # a layer without KV heads has no attention
                where = "" if len(set(self.heads)) == len(set(self.kv_heads)) == 1 else f" in layer {layer}"
                raise ModelError(
                    f"{self.metadata.path}: {count} query heads ({key}) do not divide among {kv_count} KV heads ({kv_key}){where}"
                )

    def default_head_size(self) -> int:
        """The hidden size divided by the number of heads. Raises ModelError if that is not a whole number."""
        heads, key = self.heads[0], self.key("attention.key_length")
        if key not in self.metadata and self.hidden % heads:
            raise ModelError(
                f"{self.metadata.path}: {self.named('embedding_length')} {self.hidden} is not a multiple of "
                f"{self.named('attention.head_count')} {heads}, and {self.metadata.own_name(key)} is not given"
            )
        return max(self.hidden // heads, 1)

    # -- the graph ----------------------------------------------------------------------------------------------------

    def graph(self, g: GraphBuilder) -> str:
        """The whole model: from token ids to the logits of the last position, or to the embedding of the text."""
        table = g.embedding_table(self.hidden)
        self.rope_angles(g)
        x = self.embed(g, table)
        for layer in g.layers(self.layers):
            x = self.layer(g, x, layer)
        x = self.finish(g, x)
        if self.pooling:
            return self.pool(g, x)
        return self.logits(g, g.last(x)) if self.has_head else x

    def finish(self, g: GraphBuilder, x: str) -> str:
        """What becomes of the hidden state behind the last layer: the last norm."""
        return g.norm("final_norm", x)

    @property
    def unused_tensors(self) -> Mapping[str, str]:
        """See ``Family.unused_tensors``."""
        dense = [self.tensor_name(slot, what) for slot in DENSE_SLOTS for what in ("weight", "bias")]
        found = {} if self.pooling else dict.fromkeys(dense, "behind a pooling that there is not")
        if self.pooling or not self.has_head:
            found[self.tensor_name("lm_head")] = "of the head, which an embedding model has no use for,"
        return found

    def rope_angles(self, g: GraphBuilder) -> None:
        """The RoPE angles of each position, and those of the layers with a sliding window if they differ."""
        g.angles("rope_angles", self.rope, g.frequency_factors(self.rope, self.original_context))
        if any(self.windows) and self.sliding_rope != self.rope:
            g.angles("rope_angles_sliding", self.sliding_rope)

    def angles_of(self, layer: int) -> str:
        """The node with the RoPE angles of a layer."""
        return "rope_angles_sliding" if self.windows[layer] and self.sliding_rope != self.rope else "rope_angles"

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The embedding, which begins the residual stream."""
        return g.embed("embedding", table)

    def layer(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Pre-norm attention, then a pre-norm feed-forward network, each added to the residual stream."""
        x = g.add("post_attn_residual", x, self.attention(g, g.norm("attn_norm", x), layer))
        return g.add("post_ffn_residual", x, self.feed_forward(g, g.norm("ffn_norm", x), layer))

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Grouped-query attention (arXiv:2305.13245), with the layer's window."""
        return g.linear("attn_out", self.attend(g, x, layer), self.hidden)

    def attend(self, g: GraphBuilder, x: str, layer: int) -> str:
        """What the output projection of attention reads: the heads side by side."""
        q, k, v = self.project(g, x, layer)
        q, k = self.apply_rope(g, q, layer), self.apply_rope(g, k, layer)
        return g.attend(
            q, k, v, scale=self.scale, window=self.windows[layer], causal=self.causal, chunked=self.has_chunks(),
            symmetric=self.symmetric_windows and not self.causal, **self.attention_extras(g),
        )  # fmt: skip

    def attention_extras(self, g: GraphBuilder) -> Mapping[str, Any]:
        """More arguments for ``GraphBuilder.attend``, such as a soft cap."""
        return {}

    def project(self, g: GraphBuilder, x: str, layer: int) -> Sequence[Heads]:
        """The heads of q, k and v."""
        heads, kv_heads = self.heads[layer], self.kv_heads[layer]
        return g.qkv(x, heads, kv_heads, self.head_size, self.value_size, needs_bias=self.qkv_bias)

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """The heads ``x`` of q or k after RoPE."""
        return g.rope(x, self.angles_of(layer), self.row_order)

    def feed_forward(self, g: GraphBuilder, x: str, layer: int) -> str:
        """A gated feed-forward network (Shazeer 2020, arXiv:2002.05202)."""
        return self.down(g, *self.gate_and_up(g, x, layer))

    def gate_and_up(self, g: GraphBuilder, x: str, layer: int) -> tuple[str, str]:
        """The gate projection and the up projection."""
        return g.linear("ffn_gate", x, self.ffn[layer]), g.linear("ffn_up", x, self.ffn[layer])

    def down(self, g: GraphBuilder, gate: str, up: str, slot: str = "ffn_out") -> str:
        """The down projection of act(gate) · up."""
        product = g.apply("ffn_swigl", "mul", g.apply("ffn_silu", self.activation, gate), up)
        return g.linear("ffn_out", product, self.hidden, slot=slot)

    def logits(self, g: GraphBuilder, x: str) -> str:
        """The LM head. A file without one ties it to the embedding table."""
        return g.head("lm_head", x)
