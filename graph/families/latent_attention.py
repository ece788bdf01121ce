"""Multi-head latent attention: keys and values are made of one small latent (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import Reading, flag, number, real
from aprgraph.graph.families.rope_scaling import Rope, read_rope, temperature

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder
    from aprgraph.graph.families.base import Order


class LatentAttention(Decoder):
    """A decoder whose keys and values are made of a latent that all heads share.

    RoPE turns a part of each head of q, and one part of k that all heads share; the rest of k has no positions. A file
    holds one of two forms. With `kv_b`, the heads of k and v are computed, and the KV cache holds them. With `k_b` and
    `v_b`, q is brought into the latent's space, attention is over the latent itself, and the KV cache holds nothing
    else. Both give the same, but for rounding.
    """

    #: Pairs of RoPE are neighbours in the original and in GGUF; a checkpoint may say that they are halves.
    pairing: ClassVar[Order] = "interleaved"
    hf_pairing: ClassVar[Order] = "interleaved"
    #: The epsilon of the norms of the latents, which is not that of the others.
    latent_eps: ClassVar[float] = 1e-6
    form_numbers = ("kv_heads", "cached_size", "cached_value_size")
    #: What files hold as YaRN's `yarn_log_multiplier` for an `mscale_all_dim` of 1.
    log_multiplier = 0.1

    #: The rank of the latent of the queries, 0 where they have none; and that of the latent of keys and values.
    q_rank = number("attention.q_lora_rank", "q_lora_rank", 0, least=0)
    kv_rank = number("attention.kv_lora_rank", "kv_lora_rank")
    #: The sizes of heads in the KV cache. They are those of the latent in files that hold the second form.
    cached_size = number("attention.key_length", None, lambda f: max(f.hidden // f.heads[0], 1))
    cached_value_size = number("attention.value_length", None, lambda f: f.cached_size)
    head_size = number("attention.key_length_mla", "qk_nope_head_dim + qk_rope_head_dim", lambda f: f.cached_size)
    value_size = number("attention.value_length_mla", "v_head_dim", lambda f: f.cached_value_size)
    #: How many elements of each head RoPE turns, the last ones.
    turned = number("rope.dimension_count", "qk_rope_head_dim")
    neighbours = flag("rope_interleave", "rope_interleave", True)
    rope: Reading[Rope] = Reading(
        lambda f: read_rope(f.metadata, f.architecture, f.head_size, f.rope_base, f.original_context, magnitude_in_scale=True)
    )
    #: YaRN's `mscale_all_dim` times ``log_multiplier``: how strongly the stretching of RoPE sharpens the softmax.
    sharpening = real("rope.scaling.yarn_log_multiplier", None, 0.0)
    scale = real("attention.scale", None, lambda f: f.default_scale())
    #: By how much queries grow with the logarithm of their position, in steps of as many positions (Mistral Large 3).
    growth = real("attention.temperature_scale", None, 0.0, least=0)
    growth_span = number("attention.temperature_length", None, lambda f: f.original_context, given="growth")

    def check(self) -> None:
        """Raise ModelError where RoPE turns whole heads."""
        super().check()
        if self.turned >= self.head_size:
            raise ModelError(
                f"{self.metadata.path}: {self.named('rope.dimension_count')} is {self.turned}, expected less than the head size "
                f"{self.head_size}"
            )

    @property
    def row_order(self) -> Order:
        """As the file says."""
        return super().row_order if self.neighbours else "halves"

    def default_scale(self) -> float:
        """1 / sqrt(head size), times the square of YaRN's temperature."""
        # Divided in float32, as what a file holds was rounded to it.
        strength = float(np.float32(self.sharpening) / np.float32(self.log_multiplier))
        return temperature(1 / self.rope.scale, strength) ** 2 / math.sqrt(self.head_size)

    def rope_angles(self, g: GraphBuilder) -> None:
        """The RoPE angles, and what the queries of each position are multiplied by."""
        super().rope_angles(g)
        if self.growth:
            g.inner("query_temperature", "query_temperature", "positions", strength=self.growth, span=self.growth_span)

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention over the heads of k and v, or over their latent, as the file has it."""
        heads, plain = self.heads[layer], self.head_size - self.turned
        q = self.queries(g, x, heads)
        q_plain = g.inner("q_nope", "columns", q, start=0, stop=plain, heads=heads)
        q_part = g.inner("q_rope_part", "columns", q, start=plain, stop=self.head_size, heads=heads)
        both = g.linear("kv_a", x, self.kv_rank + self.turned)
        latent = g.norm("kv_a_norm", g.heads("kv", both, 1, self.kv_rank), eps=self.latent_eps)
        angles = self.angles_of(layer)
        q_turned = g.rope(g.heads("q", q_part, heads, self.turned), angles, self.row_order, stage="q_pe").value
        k_turned = g.rope(g.heads("k", both, 1, self.turned, start=self.kv_rank), angles, self.row_order, stage="k_pe").value
        over = self.attend_to_latent if g.has("k_b") else self.attend_to_heads
        return g.linear("attn_out", over(g, (q_plain, q_turned), (latent, k_turned), heads), self.hidden)

    def queries(self, g: GraphBuilder, x: str, heads: int) -> str:
        """The heads of q, of their latent where they have one."""
        rows = heads * self.head_size
        if not self.q_rank:
            return g.linear("q_matmul", x, rows, slot="q")
        latent = g.norm("q_a_norm", g.linear("q_a", x, self.q_rank), eps=self.latent_eps)
        return g.linear("q_matmul", latent, rows, slot="q_b")

    def whole_queries(self, g: GraphBuilder, parts: tuple[str, str], heads: int) -> str:
        """The heads of q from their parts, scaled by their position where the model does so."""
        whole = g.inner("q", "join_heads", *parts, heads=heads)
        return g.inner("q_scaled", "scale_rows", whole, "query_temperature") if self.growth else whole

    def attend_to_heads(self, g: GraphBuilder, q: tuple[str, str], k: tuple[str, str], heads: int) -> str:
        """Attention over heads of k and v that are computed of the latent. ``q`` and ``k``: without RoPE, and with it."""
        plain = self.head_size - self.turned
        size = plain + self.value_size
        of_latent = g.linear("kv_b", k[0], heads * size)
        k_plain = g.inner("k_nope", "columns", of_latent, start=0, stop=plain, heads=heads)
        v = g.inner("v", "columns", of_latent, start=plain, stop=size, heads=heads)
        whole_q = self.whole_queries(g, q, heads)
        whole_k = g.inner("k", "join_heads", k_plain, k[1], heads=heads, shared=True)
        of_heads = (g.heads("q", whole_q, heads, self.head_size), g.heads("k", whole_k, heads, self.head_size))
        return g.attend(*of_heads, g.heads("v", v, heads, self.value_size), scale=self.scale, causal=self.causal)

    def attend_to_latent(self, g: GraphBuilder, q: tuple[str, str], k: tuple[str, str], heads: int) -> str:
        """Attention over the latent, which all heads share as if it were one KV head. ``q`` and ``k`` as above."""
        size = self.kv_rank + self.turned
        matrices = g.weight("k_b", heads, self.kv_rank, self.head_size - self.turned)
        absorbed = g.apply("q_absorbed", "head_linear", q[0], matrices)
        whole_q = self.whole_queries(g, (absorbed, q[1]), heads)
        whole_k = g.inner("k", "join_heads", *k, heads=1)
        of_latent = (g.heads("q", whole_q, heads, size), g.heads("k", whole_k, 1, size))
        mixed = g.attend(*of_latent, self.kv_rank, scale=self.scale, causal=self.causal, stage="attn_latent")
        return g.apply("attention", "head_linear", mixed, g.weight("v_b", heads, self.value_size, self.kv_rank))
