"""The `qwen2moe` architecture: Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B (arXiv:2407.10671).

The weights of the chosen experts are left as the softmax gives them, and every position uses a shared expert as well.
"""

from aprgraph.graph.families.base import Experts, Family

QWEN2MOE = Family(
    "qwen2moe",
    "Qwen 1.5 and 2 mixtures of experts",
    rope_pairing="halves",
    qkv_bias=True,
    experts=Experts(normalise=False, shared=True, divides_ffn=True),
)
