"""Bounds of the elements of q, k and v (MPT, MosaicML, 2023), by which training stays stable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import real

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class ClippedProjections(Decoder):
    """A decoder in which no element of q, k and v is larger than a bound, where there is one."""

    #: 0 is none.
    bound = real("attention.clamp_kqv", "clip_qkv", 0.0, least=0)

    def project(self, g: GraphBuilder, x: str, layer: int) -> Sequence[Heads]:
        """The heads of q, k and v, within plus and minus the bound."""
        heads = super().project(g, x, layer)
        if not self.bound:
            return heads
        clipped = g.inner("qkv_clipped", "clamp", heads[0].value, bound=self.bound)  # q, k and v side by side
        return [replace(one, value=clipped) for one in heads]
