"""The `starcoder2` architecture."""

from __future__ import annotations

from aprgraph.graph.families.numbers import real
from aprgraph.graph.families.ungated import UngatedNetwork
from aprgraph.graph.families.window import CheckpointWindows


class StarCoder2(UngatedNetwork):
    """StarCoder 2 (arXiv:2402.19173): LayerNorms, a network without a gate, biases everywhere.

    A checkpoint's sliding window is every layer's; GGUF files do not have it.
    """

    architecture = "starcoder2"
    hf_classes = "Starcoder2ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {"ffn_up": "mlp.c_fc", "ffn_out": "mlp.c_proj"}
    norm_op = "layer_norm"
    norm_bias = True
    activation = "gelu"
    eps = real("attention.layer_norm_epsilon", "norm_epsilon", least=0)
    windows = CheckpointWindows()
