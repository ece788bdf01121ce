"""The `qwen3moe` architecture: Qwen3-30B-A3B, Qwen3-235B-A22B (arXiv:2505.09388).

Some published files lack `rope.freq_base`; the models were trained with 1,000,000.
"""

from aprgraph.graph.families.base import Experts, Family

QWEN3MOE = Family(
    "qwen3moe",
    "Qwen 3 mixtures of experts",
    rope_pairing="halves",
    rope_base=1_000_000.0,
    qk_norm=True,
    experts=Experts(normalise=True, divides_ffn=True),
)
