"""The `qwen2moe` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import number
from aprgraph.graph.families.qwen2 import Qwen2

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class Qwen2Moe(Qwen2, Mixture):
    """Qwen 1.5 and 2 mixtures of experts (arXiv:2407.10671): weights of experts as the softmax gives them, and a shared
    expert.
    """

    architecture = "qwen2moe"
    hf_classes = "Qwen2MoeForCausalLM"
    checked_against = "transformers 5.24, llama-cpp-python 0.3.36"
    normalises = False
    shared_ffn = number("expert_shared_feed_forward_length", "shared_expert_intermediate_size", lambda f: f.ffn[0])

    def shared_expert(self, g: GraphBuilder, x: str) -> str:
        """The shared expert, whose output is scaled by the sigmoid of its own gate."""
        out = super().shared_expert(g, x)
        logit = g.inner("shared_gate_logit", "linear", x, g.row("shared_gate_logit", self.hidden))
        return g.inner("shared_expert", "scale_rows", out, g.inner("shared_gate", "sigmoid", logit))
