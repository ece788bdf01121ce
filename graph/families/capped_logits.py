"""A soft cap on the logits (Gemma 2, arXiv:2408.00118)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import real

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class CappedLogits(Decoder):
    """A decoder whose logits lie within plus and minus a cap."""

    logit_cap = real("final_logit_softcapping", "final_logit_softcapping", 0.0, least=0, keep_zero=True)

    def logits(self, g: GraphBuilder, x: str) -> str:
        """The logits, after a soft cap unless that is 0."""
        if not self.logit_cap:
            return g.head("lm_head", x)
        return g.apply("lm_head", "soft_cap", g.head("lm_head_raw", x), cap=self.logit_cap)
