"""The `olmoe` architecture."""

from __future__ import annotations

from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.row_norms import RowNorms


class Olmoe(RowNorms, Mixture):
    """OLMoE 1B-7B (arXiv:2409.02060): experts in every layer, with weights as the softmax gives them, and norms of whole
    rows of q and k.
    """

    architecture = "olmoe"
    hf_classes = "OlmoeForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    normalises = False

    def default_expert_ffn(self) -> int:
        """There is no dense network, and the size of one is that of an expert."""
        return self.ffn[0]
