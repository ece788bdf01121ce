"""The `internlm2` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.decoder import Decoder

_JOINED = "attention.wqkv"


class InternLm2(Decoder):
    """InternLM 2 and 2.5 (arXiv:2403.17297): a Llama whose checkpoints have names of their own, and q, k and v as one tensor, KV group by
    KV group.

    Checkpoints are of the code that came with them: transformers has no class of it.
    """

    architecture = "internlm2"
    hf_classes = "InternLM2ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = "interleaved"
    hf_names = {
        "embedding": "tok_embeddings", **dict.fromkeys(("qkv_matmul", "q", "k", "v"), _JOINED), "attn_out": "attention.wo",
        "attn_norm": "attention_norm", "ffn_norm": "ffn_norm", "ffn_gate": "feed_forward.w1", "ffn_up": "feed_forward.w3",
        "ffn_out": "feed_forward.w2",
    }  # fmt: skip
    hf_renamed = {"output.weight": "lm_head.weight"}

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the field that says whether there are biases, which the tensors tell."""
        return {name: value for name, value in fields.items() if name != "bias"}

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """GGUF has q, k and v apart. Checkpoints have the query heads of each KV group, its head of k and its head of v."""
        heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
        groups = config.get("num_key_value_heads", heads)
        if slot != "qkv_matmul" or not all(isinstance(one, int) and one > 0 for one in (heads, hidden, groups)):
            return super().conversions(slot, config, what)
        assert isinstance(heads, int)
        assert isinstance(hidden, int)
        size, share = hidden // heads, heads // groups
        rows = np.arange(groups * (share + 2) * size).reshape(groups, share + 2, size)
        parts = {"q": rows[:, :share], "k": rows[:, share], "v": rows[:, share + 1]}
        return {name: Conversion(part.reshape(-1)) for name, part in parts.items()}
