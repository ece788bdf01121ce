"""The `gemma` architecture: the first Gemma."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.decoder import Decoder

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: What config.json of the first models calls GELU by tanh.
_GELU, _GELU_TANH = "gelu", "gelu_pytorch_tanh"


class Gemma(Decoder):
    """Gemma 1 and CodeGemma (arXiv:2403.08295): a Llama with GELU in place of SiLU, and a scaled embedding.

    transformers multiplies by 1 + the weights of norms. GGUF files hold the sum.
    """

    architecture = "gemma"
    hf_classes = "GemmaForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    absent_keys = ("rope.freq_base",)
    hf_norm_offset = 1.0
    activation = "gelu"

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the activation that the class takes for the one of the first models."""
        return {**fields, "hidden_act": _GELU_TANH} if fields.get("hidden_act") == _GELU else fields

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The embedding, scaled by sqrt(E)."""
        return g.embed("embedding", table, scale=math.sqrt(self.hidden))
