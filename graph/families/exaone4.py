"""The `exaone4` architecture."""

from __future__ import annotations

from aprgraph.graph.families.post_norms import PostNorms
from aprgraph.graph.families.qwen3 import Qwen3
from aprgraph.graph.families.rope_in_windows import RopeInWindows


class Exaone4(RopeInWindows, Qwen3, PostNorms):
    """EXAONE 4.0 (arXiv:2507.11407): norms behind attention and feed-forward network and of each head of q and k; in the 32B
    model three layers with a window to one without window and RoPE.

    llama.cpp applies windows to models of 64 layers alone.
    """

    architecture = "exaone4"
    hf_classes = "Exaone4ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    absent_keys = ("attention.sliding_window",)
