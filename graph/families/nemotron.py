"""The `nemotron` architecture."""

from __future__ import annotations

from aprgraph.graph.families.numbers import real
from aprgraph.graph.families.ungated import UngatedNetwork


class Nemotron(UngatedNetwork):
    """Nemotron-4, Minitron (arXiv:2402.16819): LayerNorms, a squared ReLU without a gate, RoPE in half of each head.

    transformers multiplies by 1 + the weights of norms. GGUF files hold the sum.
    """

    architecture = "nemotron"
    hf_classes = "NemotronForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    norm_op = "layer_norm"
    norm_bias = True
    hf_norm_offset = 1.0
    activation = "relu_squared"
    eps = real("attention.layer_norm_epsilon", "norm_eps", least=0)
