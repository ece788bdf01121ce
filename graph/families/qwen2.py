"""The `qwen2` architecture: Qwen 1.5 to 2.5, and distillations into it (arXiv:2407.10671). q, k and v have biases."""

from aprgraph.graph.families.base import Family

QWEN2 = Family("qwen2", "Qwen 1.5 to 2.5", rope_pairing="halves", qkv_bias=True)
