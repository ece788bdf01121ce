"""The `minimax-m2` architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprgraph.graph.families.mixture import SIGMOID, Mixture
from aprgraph.graph.families.numbers import number, same_in_all
from aprgraph.graph.families.row_norms import RowNorms

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: What the class takes where config.json leaves the size of a head out.
_HEAD_SIZE = 128
_SOFTMAX_ATTENTION = 1


class MiniMaxM2(RowNorms, Mixture):
    """MiniMax-M2 and its successors (MiniMax, 2025): experts chosen by sigmoids with a bias, norms of whole rows of q and k,
    RoPE in half of each head.
    """

    architecture = "minimax-m2"
    hf_classes = "MiniMaxM2ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"moe_router_scores": "exp_probs_b"}
    hf_names = {"moe_router_scores": "mlp.e_score_correction_bias"}
    hf_renamed = {"block_sparse_moe.": "mlp."}
    gating_function = SIGMOID
    rope_base = 5_000_000.0
    experts = number("expert_count", "num_local_experts", most=1 << 16)
    expert_ffn = same_in_all("expert_feed_forward_length", "intermediate_size", lambda f: f.ffn[0])

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the share of each head that RoPE turns in place of the number of elements, as the class has it.

        Without the kinds of attention, where all are the one there is, which publishers name by a number.
        """
        made = dict(fields)
        kinds = made.get("attn_type_list")
        if isinstance(kinds, list) and all(kind == _SOFTMAX_ATTENTION for kind in kinds):
            made.pop("attn_type_list")
        if made.get("use_qk_norm") is True:  # which the class does in any case
            made.pop("use_qk_norm")
        turned, size = made.pop("rotary_dim", None), made.get("head_dim", _HEAD_SIZE)
        if isinstance(turned, int) and isinstance(size, int) and size > 0:
            made.setdefault("partial_rotary_factor", turned / size)
        return made

    def choose_by(self, g: GraphBuilder, scores: str) -> str:
        """The sigmoids of the scores, plus a bias that takes no part in the weights."""
        return self.biased_sigmoids(g, scores, needs_bias=True)
