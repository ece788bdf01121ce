"""The `starcoder` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aprgraph.graph.families.encoder import read_activation
from aprgraph.graph.families.fused_heads import FusedByHead
from aprgraph.graph.families.gpt2 import Gpt2
from aprgraph.graph.families.numbers import Reading

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder
    from aprgraph.graph.families.conversion import Indices

#: The same GELU by tanh, with its constant written out.
_MORE = {"gelu_fast": "gelu"}


class StarCoder(FusedByHead, Gpt2):
    """StarCoder 1, SantaCoder (arXiv:2305.06161): GPT-2 with one head of k and of v for all of q.

    A checkpoint may have as many as of q, those of each head side by side. Its matrices have the rows of the product.
    """

    architecture = "starcoder"
    hf_classes = "GPTBigCodeForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_transposed = ()
    form_numbers = ("activation_op",)
    activation_op: Reading[str] = Reading(lambda f: read_activation(f, _MORE))

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the number of KV heads, which the class makes anew."""
        made = {name: value for name, value in fields.items() if name not in ("multi_query", "num_key_value_heads")}
        return {**made, "num_key_value_heads": 1} if fields.get("multi_query", True) else made

    @classmethod
    def column_order(cls, stage: str, config: Mapping[str, Any]) -> Indices | None:
        """q, k and v of each head side by side, as those of all heads; with one KV head they lie so already."""
        heads, hidden = config.get("n_head"), config.get("n_embd")
        if stage not in ("qkv_matmul", "qkv_bias") or config.get("multi_query", True):
            return None
        if not isinstance(heads, int) or not isinstance(hidden, int) or heads <= 0:
            return None
        return np.arange(3 * hidden).reshape(heads, 3, -1).swapaxes(0, 1).reshape(-1)

    def activate(self, g: GraphBuilder, up: str, layer: int) -> str:
        """GELU by erf, or by tanh in GGUF files."""
        return g.apply("ffn_swigl", self.activation_op, up)
