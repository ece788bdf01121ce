"""The `jais2` architecture."""

from __future__ import annotations

from aprgraph.graph.families.numbers import real
from aprgraph.graph.families.ungated import UngatedNetwork


class Jais2(UngatedNetwork):
    """Jais 2 8B and 70B (Inception, 2025): LayerNorms, a squared ReLU without a gate, biases everywhere."""

    architecture = "jais2"
    hf_classes = "Jais2ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    norm_op = "layer_norm"
    norm_bias = True
    activation = "relu_squared"
    eps = real("attention.layer_norm_epsilon", "layer_norm_eps", least=0)
