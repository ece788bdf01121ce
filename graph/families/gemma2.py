"""The `gemma2` architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.capped_logits import CappedLogits
from aprgraph.graph.families.numbers import real
from aprgraph.graph.families.sandwich import SandwichNorms
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

_LAYERS_OF_27B = 46


class Gemma2(CappedLogits, SandwichNorms):
    """Gemma 2 (arXiv:2408.00118): norms on both sides, a window in every second layer, and caps on scores and logits.

    The file's norms hold 1 + weight already. The 27B model divides scores by sqrt(E / H), not by the head size; its
    file does not say so.
    """

    architecture = "gemma2"
    hf_classes = "Gemma2ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {
        "attn_post_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "ffn_post_norm": "post_feedforward_layernorm",
    }
    absent_keys = ("rope.freq_base",)
    hf_norm_offset = 1.0
    activation = "gelu"
    windows = Windows(period=2, default=4096)
    score_cap = real("attn_logit_softcapping", "attn_logit_softcapping", 50.0, least=0, keep_zero=True)
    logit_cap = real("final_logit_softcapping", "final_logit_softcapping", 30.0, least=0, keep_zero=True)
    scale = real("attention.scale", None, lambda f: f.default_scale())

    def default_scale(self) -> float:
        """See the docstring of the class."""
        return 1 / math.sqrt(self.hidden // self.heads[0] if self.layers == _LAYERS_OF_27B else self.head_size)

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The embedding, scaled by sqrt(E)."""
        return g.embed("embedding", table, scale=math.sqrt(self.hidden))

    def attention_extras(self, g: GraphBuilder) -> Mapping[str, Any]:
        """A soft cap on the scores; 0 is none."""
        return {"cap": self.score_cap}
