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
    normalises = False
    shared_ffn = number("expert_shared_feed_forward_length", "shared_expert_intermediate_size", lambda f: f.ffn[0])

    def feed_forward(self, g: GraphBuilder, x: str, layer: int) -> str:
        """The chosen experts, and the shared expert, whose output is scaled by the sigmoid of its own gate."""
        gate = g.linear("ffn_gate", x, self.shared_ffn, slot="shared_gate")
        up = g.linear("ffn_up", x, self.shared_ffn, slot="shared_up")
        out = self.down(g, gate, up, slot="shared_out")
        logit = g.inner("shared_gate_logit", "linear", x, g.row("shared_gate_logit", self.hidden))
        return self.mix(g, x, g.inner("shared_expert", "scale_rows", out, g.inner("shared_gate", "sigmoid", logit)))
