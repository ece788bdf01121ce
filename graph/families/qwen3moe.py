"""The `qwen3moe` architecture."""

from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.qwen3 import Qwen3


class Qwen3Moe(Qwen3, Mixture):
    """Qwen 3 mixtures of experts (arXiv:2505.09388): experts in every layer.

    Some published files lack `rope.freq_base`; the models were trained with 1,000,000.
    """

    architecture = "qwen3moe"
    hf_classes = "Qwen3MoeForCausalLM"
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"
    rope_base = 1_000_000.0
