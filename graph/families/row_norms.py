"""Norms of all heads of q together, and of all heads of k (Muennighoff et al. 2024, arXiv:2409.02060)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprgraph.graph.builder import GraphBuilder, Heads


class RowNorms(Decoder):
    """A decoder that normalises whole rows of q and k before RoPE."""

    def project(self, g: GraphBuilder, x: str, layer: int) -> Sequence[Heads]:
        """The heads of q, k and v, after an RMSNorm over all heads of q and another over those of k."""
        q, k, v = super().project(g, x, layer)
        return g.norm_row(q), g.norm_row(k), v
