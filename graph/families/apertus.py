"""The `apertus` architecture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aprgraph.graph.families.numbers import reals_per_layer
from aprgraph.graph.families.qwen3 import Qwen3
from aprgraph.graph.families.ungated import UngatedNetwork

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Apertus(Qwen3, UngatedNetwork):
    """Apertus 8B and 70B (arXiv:2509.14233): a network without a gate, whose activation xIELU has numbers learnt for each
    layer.

    Each head of q and k is normalised before RoPE.
    """

    architecture = "apertus"
    hf_classes = "ApertusForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {"attn_norm": "attention_layernorm", "ffn_norm": "feedforward_layernorm"}
    hf_numbers = {f"mlp.act_fn.{name}": f"xielu.{name}" for name in ("alpha_p", "alpha_n", "beta", "eps")}
    bare_keys = tuple(hf_numbers.values())
    activation = "xielu"
    rope_base = 12_000_000.0
    #: As they were learnt: a softplus makes them positive.
    alpha_p, alpha_n = reals_per_layer("xielu.alpha_p"), reals_per_layer("xielu.alpha_n")
    beta, below = reals_per_layer("xielu.beta"), reals_per_layer("xielu.eps")

    def activate(self, g: GraphBuilder, up: str, layer: int) -> str:
        """xIELU with the layer's numbers."""
        beta = self.beta[layer]
        alpha_p, alpha_n = (math.log1p(math.exp(-abs(x))) + max(x, 0.0) for x in (self.alpha_p[layer], self.alpha_n[layer]))
        return g.apply("ffn_swigl", "xielu", up, alpha_p=alpha_p, alpha_n=beta + alpha_n, beta=beta, eps=self.below[layer])
