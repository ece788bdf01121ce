"""Feed-forward networks without a gate (Vaswani et al. 2017, arXiv:1706.03762)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class UngatedNetwork(Decoder):
    """A decoder whose feed-forward networks are down(act(up(x)))."""

    def feed_forward(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Up, the activation, and down. `ffn_swigl` is what goes into the last one, as in gated networks."""
        activated = self.activate(g, g.linear("ffn_up", x, self.ffn[layer]), layer)
        return g.linear("ffn_out", activated, self.hidden)

    def activate(self, g: GraphBuilder, up: str, layer: int) -> str:
        """act(up)."""
        return g.apply("ffn_swigl", self.activation, up)
