"""Layers that attend to the keys and values of an earlier layer (YOCO, arXiv:2405.05254), as in Gemma 3n and Gemma 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import number

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads

_OF_KEYS = ("k", "v", "k_norm")


class SharedKeys(Decoder):
    """A decoder in which the last layers have no keys and values of their own, and each head of q, k and v is normalised.

    Such a layer attends to those of the last layer before them that sees as far: with a window, or all positions.
    """

    shared = number("attention.shared_kv_layers", "num_kv_shared_layers", 0, least=0)

    def check(self) -> None:
        """Raise ModelError where no layer has the keys that a later one attends to."""
        super().check()
        own = self.windows[: max(self.layers - self.shared, 0)]
        kind = next((window for window in self.windows[len(own) :] if bool(window) not in map(bool, own)), None)
        if kind is not None:
            which = "a sliding window" if kind else "attention to all positions"
            raise ModelError(
                f"{self.metadata.path}: {self.named('attention.shared_kv_layers')} is {self.shared}, but no layer before these has "
                f"{which}, as one of them has; expected fewer"
            )

    def source_of(self, layer: int) -> int:
        """The layer whose keys and values a layer attends to, which may be itself."""
        own = self.layers - self.shared
        return layer if layer < own else max(one for one in range(own) if bool(self.windows[one]) == bool(self.windows[layer]))

    @property
    def unused_tensors(self) -> Mapping[str, str]:
        """Files hold keys and values of these layers all the same."""
        names = [self.tensor_name(slot, what) for slot in _OF_KEYS for what in ("weight", "bias")]
        layers = range(self.layers - self.shared, self.layers)
        shared = {f"blk.{layer}.{name}": "of keys and values that a layer shares with an earlier one" for layer in layers for name in names}
        return {**super().unused_tensors, **shared}

    def has_values(self, g: GraphBuilder, layer: int) -> bool:
        """Whether a layer has a projection of v. Otherwise v is what k is, before its norm and RoPE."""
        return True

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention over the layer's own keys and values, or those of an earlier layer."""
        how = {"scale": self.scale, "window": self.windows[layer], "causal": self.causal, **self.attention_extras(g)}
        source, size = self.source_of(layer), self.size_of(layer)
        wanted = [("q", self.heads[layer], size)]
        if source == layer:
            wanted += [(name, self.kv_heads[layer], size) for name in ("k", "v")[: 1 + self.has_values(g, layer)]]
        q, *others = g.side_by_side(x, *wanted, needs_bias=self.qkv_bias)
        q = self.apply_rope(g, g.norm_heads(q), layer)
        mixed = g.attend(q, *self.keys_and_values(g, others, layer), **how) if others else g.attend_again(q, source, **how)
        return g.linear("attn_out", mixed, self.hidden)

    def keys_and_values(self, g: GraphBuilder, heads: list[Heads], layer: int) -> tuple[Heads, Heads]:
        """Those of k after their norm and RoPE, and those of v after a norm without weights. ``heads``: k and v, or k alone."""
        k, v = heads[0], heads[-1].named("v")
        return self.apply_rope(g, g.norm_heads(k), layer), g.norm_heads(v, has_weights=False)
