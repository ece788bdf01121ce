"""The `gemma3` architecture: the text models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aprgraph.graph.families.numbers import Reading, real
from aprgraph.graph.families.qwen3 import Qwen3
from aprgraph.graph.families.rope_scaling import Rope, read_sliding_rope
from aprgraph.graph.families.sandwich import SandwichNorms
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

_LAYERS_OF_27B = 62


class Gemma3(Qwen3, SandwichNorms):
    """Gemma 3 (arXiv:2503.19786): five layers with a window and its own RoPE base to one that sees everything, norms on
    both sides.

    The file's norms hold 1 + weight already. The 27B model divides scores by sqrt(E / H), not by the head size; its
    file does not say so.
    """

    architecture = "gemma3"
    hf_classes = "Gemma3ForCausalLM Gemma3ForConditionalGeneration"
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"
    hf_names = {
        "attn_post_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "ffn_post_norm": "post_feedforward_layernorm",
    }
    hf_norm_offset = 1.0
    activation = "gelu"
    rope_base = 1_000_000.0
    windows = Windows(period=6)
    sliding_rope: Reading[Rope] = Reading(
        lambda f: read_sliding_rope(f.metadata, f.architecture, f.rope.dims, 10000.0) if any(f.windows) else f.rope
    )
    scale = real("attention.scale", None, lambda f: f.default_scale())

    def default_scale(self) -> float:
        """See the docstring of the class."""
        return 1 / math.sqrt(self.hidden // self.heads[0] if self.layers == _LAYERS_OF_27B else self.head_size)

    def embed(self, g: GraphBuilder, table: str) -> str:
        """The embedding, scaled by sqrt(E)."""
        return g.embed("embedding", table, scale=math.sqrt(self.hidden))
