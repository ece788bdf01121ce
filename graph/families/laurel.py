"""A residual connection beside the usual one, through a projection of low rank (LAuReL, arXiv:2411.07501)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import number

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Laurel(Decoder):
    """A decoder that adds to what attention gives what a projection of low rank makes of its input, and that input."""

    #: GGUF files have it as the rows of a weight alone; llama.cpp knows no other than 64.
    laurel_rank = number("laurel_rank", "laurel_rank", 64)
    gguf_names = {"laurel_left": "laurel_l", "laurel_right": "laurel_r", "laurel_norm": "laurel_post_norm"}
    hf_names = {"laurel_left": "laurel.linear_left", "laurel_right": "laurel.linear_right", "laurel_norm": "laurel.post_laurel_norm"}

    def laurel(self, g: GraphBuilder, x: str) -> str:
        """``x``, plus a projection of low rank of it, normalised."""
        is_given = self.key("laurel_rank") in self.metadata
        rank = self.laurel_rank if is_given else g.rows_of("laurel_left", self.laurel_rank)
        low = g.linear("laurel_left", x, rank, bias=False)
        return g.add("laurel_out", x, g.norm("laurel_norm", g.linear("laurel_right", low, self.hidden, bias=False)))

    def with_laurel(self, g: GraphBuilder, x: str, laurel: str) -> str:
        """The sum of both residual connections, by sqrt(2)."""
        return g.apply("laurel_residual", "scale", g.inner("laurel_sum", "add", x, laurel), factor=math.sqrt(0.5))
