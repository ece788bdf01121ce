"""The `qwen3next` architecture."""

from aprgraph.graph.families.delta_net import DeltaNet
from aprgraph.graph.families.qwen2moe import Qwen2Moe


class Qwen3Next(DeltaNet, Qwen2Moe):
    """Qwen3-Next (arXiv:2505.09388): gated delta nets, gated attention in every fourth layer, and a shared expert beside
    the chosen ones.
    """

    architecture = "qwen3next"
    hf_classes = "Qwen3NextForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    normalises = True
