"""The `qwen3` architecture: dense Qwen 3 (arXiv:2505.09388). Heads of q and k are normalised before RoPE."""

from aprgraph.graph.families.base import Family

QWEN3 = Family("qwen3", "Qwen 3", rope_pairing="halves", qk_norm=True)
