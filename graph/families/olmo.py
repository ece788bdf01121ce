"""The `olmo` architecture."""

from __future__ import annotations

from aprgraph.graph.families.clipped_projections import ClippedProjections
from aprgraph.graph.families.llama import Llama
from aprgraph.graph.families.numbers import real


class Olmo(ClippedProjections, Llama):
    """OLMo 1 (arXiv:2402.00838): a Llama whose norms are LayerNorms without weights, in its later models with bounds of q, k and v."""

    architecture = "olmo"
    hf_classes = "OlmoForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    norm_op = "layer_norm"
    norm_weights = False
    eps = real("attention.layer_norm_epsilon", None, 1e-5, least=0)
