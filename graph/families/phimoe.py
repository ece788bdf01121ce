"""The `phimoe` architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import number, real, same_in_all
from aprgraph.graph.families.window import Windows

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: How many experts of a position SparseMixer weighs in the code of the models.
_CHOSEN = 2


class PhiMoe(Mixture):
    """Phi-3.5-MoE (arXiv:2404.14219): two experts in every layer, each weighed among those that are left and nearly as good (SparseMixer),
    LayerNorms, biases.

    llama.cpp takes RMSNorms, and the two experts' shares of one softmax in place of these weights. Long-context models have
    two sets of RoPE factors, of which transformers 5.24 takes the short ones for texts of any length.
    """

    architecture = "phimoe"
    hf_classes = "PhimoeForCausalLM PhiMoEForCausalLM"
    checked_against = "transformers 5.24"
    hf_names = {"moe_router_logits": "mlp.router"}
    hf_magnitudes = True
    norm_op = "layer_norm"
    norm_bias = True
    rope_base = 1_000_000.0
    windows = Windows(period=0)
    experts = number("expert_count", "num_local_experts", most=1 << 16)
    expert_ffn = same_in_all("expert_feed_forward_length", "intermediate_size", lambda f: f.ffn[0])
    #: Half of how far below the best another expert's score may be to have a share, as a part of it. No GGUF file says it.
    jitter = real("router_jitter_noise", "router_jitter_noise", 0.01, least=0, keep_zero=True)

    def check(self) -> None:
        """Raise UnsupportedModelError unless two experts are chosen, as many as SparseMixer weighs."""
        super().check()
        if self.chosen != _CHOSEN:
            key = self.named("expert_used_count")
            raise UnsupportedModelError(f"{self.metadata.path}: {key} is {self.chosen}; supported in this family is {_CHOSEN}")

    def weigh(self, g: GraphBuilder, scores: str, ids: str) -> str:
        """The weights of SparseMixer (arXiv:2310.00811)."""
        return g.apply("moe_router", "sparse_mixer", scores, ids, tolerance=2 * self.jitter)

    def logits(self, g: GraphBuilder, x: str) -> str:
        """The head, with a bias in files that have one."""
        return g.linear("lm_head", x, g.vocabulary) if g.has("lm_head") else super().logits(g, x)
