"""The `dots1` architecture."""

from __future__ import annotations

from aprgraph.graph.families.glm4moe import Glm4Moe
from aprgraph.graph.families.window import CheckpointWindows


class Dots1(Glm4Moe):
    """dots.llm1 (arXiv:2506.05767): experts chosen by sigmoids with a bias, shared experts, the first layers dense, and each
    head of q and k normalised.
    """

    architecture = "dots1"
    hf_classes = "Dots1ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    gguf_names = {"moe_router_scores": "exp_probs_b"}
    norms_heads = True
    windows = CheckpointWindows()
