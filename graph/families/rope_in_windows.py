"""Models in which layers with a sliding window have RoPE, and the others none (NoPE, arXiv:2305.19466)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import number
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class RopeInWindows(Decoder):
    """A decoder that normalises each head of q and k, and turns those of layers with a window; without windows, those of all layers."""

    windows = Windows(period=4)
    #: The window, 0 for none in any layer. A checkpoint may have one that no layer uses.
    span = number("attention.sliding_window", None, 0, least=0)

    def turns(self, layer: int) -> bool:
        """Whether a layer has RoPE."""
        return not self.span or self.windows[layer] != 0

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """A norm over each head, then RoPE in the layers that have it."""
        return super().apply_rope(g, x, layer) if self.turns(layer) else g.norm_heads(x)
