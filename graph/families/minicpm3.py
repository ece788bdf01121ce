"""The `minicpm3` architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from aprgraph.graph.families.latent_attention import LatentAttention
from aprgraph.graph.families.minicpm import MiniCpm
from aprgraph.graph.families.numbers import Reading, number

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder
    from aprgraph.graph.families.base import Order

#: What the class takes where config.json leaves them out.
_SCALES = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}


class MiniCpm3(LatentAttention, MiniCpm):
    """MiniCPM3 4B (arXiv:2404.06395): latent attention in a dense model whose embedding, logits, and what is added to the residual stream
    are scaled, RoPE of halves in a part of each head.

    Published files stretch RoPE by LongRoPE's two sets of factors.
    """

    architecture = "minicpm3"
    hf_classes = "MiniCPM3ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing: ClassVar[Order] = "halves"
    hf_pairing: ClassVar[Order] = "halves"
    absent_keys = ("rope.freq_base", "rope.scaling.original_context_length")
    neighbours: Reading[bool] = Reading(lambda _: False)
    cached_value_size = number("attention.value_length", None, lambda f: max(f.hidden // f.heads[0], 1))

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the scales that are made of others; the class scales nothing where one is null."""
        given: dict[str, Any] = {**_SCALES, **fields}
        layers, hidden = given.get("num_hidden_layers"), given.get("hidden_size")
        if given["scale_depth"] is None and isinstance(layers, int) and layers > 0:
            given["scale_depth"] = math.sqrt(layers)
        if given["dim_model_base"] is None:
            given["dim_model_base"] = hidden
        return super().made_fields(given)

    def logits(self, g: GraphBuilder, x: str) -> str:
        """The head, which is given the hidden state divided."""
        return g.head("lm_head", g.inner("final_scaled", "scale", x, factor=1 / self.logit_scale))
