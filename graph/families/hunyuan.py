"""The `hunyuan-dense` and `hunyuan-moe` architectures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.numbers import Reading, number, real, same_in_all
from aprgraph.graph.families.rope_scaling import Rope, read_rope

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder, Heads


class HunyuanDense(Decoder):
    """Hunyuan 0.5B to 7B (Tencent, 2025): each head of q and k is normalised after RoPE.

    The base of RoPE was stretched by a factor alpha (NTK-aware scaling); converters put it into `rope.freq_base`.
    """

    architecture = "hunyuan-dense"
    hf_classes = "HunYuanDenseV1ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {"q_norm": "self_attn.query_layernorm", "k_norm": "self_attn.key_layernorm"}
    #: The base itself is compared: one file holds it stretched, another its factor.
    form_numbers = ("alpha",)
    alpha = real("rope.scaling.alpha", None, 1.0, least=0)
    rope: Reading[Rope] = Reading(lambda f: f.stretched_rope())

    def stretched_rope(self) -> Rope:
        """RoPE with the base times alpha^(D / (D - 2))."""
        size = self.head_size
        rope = read_rope(self.metadata, self.architecture, size, self.rope_base, self.original_context)
        return rope if self.alpha == 1 else replace(rope, base=rope.base * self.alpha ** (size / (size - 2)))

    def apply_rope(self, g: GraphBuilder, x: Heads, layer: int) -> Heads:
        """RoPE, then an RMSNorm over each head."""
        return g.norm_heads(super().apply_rope(g, x, layer))


class HunyuanMoe(HunyuanDense, Mixture):
    """Hunyuan-A13B (Tencent, 2025): experts beside a shared one, heads normalised after RoPE.

    transformers and llama.cpp both give experts the size of the dense network, whatever the files say of theirs.
    """

    architecture = "hunyuan-moe"
    hf_classes = "HunYuanMoEV1ForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    hf_names = {
        "moe_router_logits": "mlp.gate.wg",
        "shared_gate": "mlp.shared_mlp.gate_proj",
        "shared_up": "mlp.shared_mlp.up_proj",
        "shared_out": "mlp.shared_mlp.down_proj",
        **HunyuanDense.hf_names,
    }
    experts = number("expert_count", "num_experts", most=1 << 16)
    chosen = same_in_all("expert_used_count", "moe_topk")
    expert_ffn = same_in_all("expert_feed_forward_length", None, lambda f: f.ffn[0])
    shared_ffn = number("expert_shared_feed_forward_length", None, lambda f: f.ffn[0])
