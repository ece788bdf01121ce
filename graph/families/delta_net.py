"""Gated delta nets in most layers, and gated attention in the others."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.numbers import number
from aprgraph.graph.families.qwen3 import Qwen3
from aprgraph.graph.families.recurrent import RecurrentLayers
from aprgraph.graph.heads import Heads

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

#: Of the lengths of q and k, as in the original; llama.cpp takes the epsilon of the RMSNorms, which published models have alike.
_EPS = 1e-6


class DeltaNet(Qwen3):
    """A decoder most of whose layers are gated delta nets (Yang et al. 2024, arXiv:2412.06464).

    The others have attention whose output is multiplied by the sigmoid of a gate.
    """

    gguf_names = {
        "ffn_norm": "post_attention_norm",
        "delta_in": "ssm_in",
        "delta_gate": "attn_gate",
        "delta_beta_decay": "ssm_ba",
        "conv_out": "ssm_conv1d",
        "delta_step": "ssm_dt",
        "delta_decay": "ssm_a",
        "delta_norm": "ssm_norm",
        "delta_out": "ssm_out",
    }
    hf_names = {
        "delta_in": "linear_attn.in_proj_qkvz",
        "delta_beta_decay": "linear_attn.in_proj_ba",
        "conv_out": "linear_attn.conv1d",
        "delta_step": "linear_attn.dt_bias",
        "delta_decay": "linear_attn.A_log",
        "delta_norm": "linear_attn.norm",
        "delta_out": "linear_attn.out_proj",
    }
    hf_norm_offset = 1.0
    #: Whether the heads of v that share a head of q and k are as far apart as there are such heads, and not neighbours.
    tiled: ClassVar[bool] = False
    interval = number("full_attention_interval", "full_attention_interval", 4)
    recurrent = RecurrentLayers(lambda f: f.interval, kinds=("linear_attention",))
    #: The positions of the short convolution, the heads of q and k, those of v, and their sizes.
    conv_size = number("ssm.conv_kernel", "linear_conv_kernel_dim", least=2)
    key_heads = number("ssm.group_count", "linear_num_key_heads")
    key_size = number("ssm.state_size", "linear_key_head_dim")
    delta_heads = number("ssm.time_step_rank", "linear_num_value_heads")
    delta_columns = number("ssm.inner_size", "linear_value_head_dim * linear_num_value_heads", lambda f: f.delta_heads * f.key_size)

    def check(self) -> None:
        """Raise ModelError for heads that do not divide among each other."""
        super().check()
        for name, count, parts in (
            ("time_step_rank", self.delta_heads, "group_count"),
            ("inner_size", self.delta_columns, "time_step_rank"),
        ):
            divisor = self.key_heads if parts == "group_count" else self.delta_heads
            if count % divisor:
                raise ModelError(
                    f"{self.metadata.path}: {self.named(f'ssm.{name}')} is {count}, expected a multiple of "
                    f"{self.named(f'ssm.{parts}')}, {divisor}"
                )

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """GGUF has q, k and v apart from the gate, the rates of decay themselves, and the norm of the delta net as it is."""
        if slot == "delta_decay":
            return {slot: Conversion(values=lambda values: -np.exp(values.astype(np.float64)))}
        if slot == "delta_norm":
            return {slot: Conversion()}
        names = ("linear_num_key_heads", "linear_key_head_dim", "linear_num_value_heads", "linear_value_head_dim")
        heads, size, value_heads, value_size = (value if isinstance(value := config.get(name), int) else 0 for name in names)
        if slot != "delta_in" or not heads:
            return super().conversions(slot, config, what)
        ends = (0, size, 2 * size, 2 * size + value_heads * value_size // heads, 2 * size + 2 * value_heads * value_size // heads)
        q, k, v, gate = ((np.arange(heads)[:, None] * ends[-1] + np.arange(start, stop)).reshape(-1) for start, stop in pairwise(ends))
        return {"qkv_matmul": Conversion(np.concatenate([q, k, v])), "delta_gate": Conversion(gate)}

    def attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """A gated delta net, or in some layers gated attention."""
        return self.delta_net(g, x) if self.recurrent[layer] else self.gated_attention(g, x, layer)

    # -- gated attention ----------------------------------------------------------------------------------------------

    def gated_attention(self, g: GraphBuilder, x: str, layer: int) -> str:
        """Attention times the sigmoid of a gate, which comes with q, and with its bias if there is one: of each head q, then the gate."""
        heads, kv_heads, size = self.heads[layer], self.kv_heads[layer], self.head_size
        rows = {"q": 2 * heads * size, "k": kv_heads * size, "v": kv_heads * size}
        both = g.inner("q_and_gate", "linear", x, g.weight("q", rows["q"], self.hidden))
        others = [g.weight(slot, rows[slot], self.hidden) for slot in "kv"]
        q = g.inner("q_alone", "columns", both, start=0, stop=size, heads=heads)
        k_and_v = g.inner("k_and_v", "linear", x, *others)
        y = g.apply("qkv_matmul", "join_heads", q, k_and_v, heads=1)
        if biases := g.biases(*rows.items()):
            # The bias of q lies beside that of the gate; what is added to is the stage before.
            alone = g.inner("gate_alone", "columns", both, start=size, stop=2 * size, heads=heads)
            both = g.inner("q_beside_gate", "join_heads", g.inner("q_part", "columns", y, start=0, stop=heads * size), alone, heads=heads)
            both = g.inner("q_and_gate_biased", "bias_add", both, biases[0])
            q = g.inner("q_biased", "columns", both, start=0, stop=size, heads=heads)
            k_and_v = g.inner("k_and_v_part", "columns", y, start=heads * size, stop=(heads + 2 * kv_heads) * size)
            y = g.apply("qkv_bias", "join_heads", q, g.inner("k_and_v_biased", "bias_add", k_and_v, *biases[1:]), heads=1)
        gate = g.apply("attn_gate", "columns", both, start=size, stop=2 * size, heads=heads)
        k, v = (Heads(y, (heads + index * kv_heads) * size, kv_heads, size, name) for index, name in enumerate("kv"))
        mixed = g.attend(
            self.apply_rope(g, Heads(y, 0, heads, size, "q"), layer), self.apply_rope(g, k, layer), v, scale=self.scale, causal=self.causal
        )
        gated = g.apply("attn_gated", "mul", mixed, g.inner("attn_gate_open", "sigmoid", gate))
        return g.linear("attn_out", gated, self.hidden)

    # -- the gated delta net ------------------------------------------------------------------------------------------

    def delta_net(self, g: GraphBuilder, x: str) -> str:
        """The delta rule on q, k and v that have passed a short convolution; what it reads is normalised and gated."""
        heads, columns, keys = self.delta_heads, self.delta_columns, self.key_heads * self.key_size
        mixed, gate = self.delta_input(g, x)
        beta, alpha = self.beta_and_alpha(g, x)
        beta = g.apply("delta_beta", "sigmoid", beta)
        conv = g.apply("conv_out", "short_conv", mixed, g.weight("conv_out", 2 * keys + columns, self.conv_size))
        active = g.apply("conv_silu", "silu", conv)
        q, k = (
            g.apply(f"delta_{name}", "l2_norm", g.inner(f"delta_{name}_raw", "columns", active, start=start, stop=start + keys),
                    eps=_EPS, groups=self.key_heads)
            for name, start in (("q", 0), ("k", keys))
        )  # fmt: skip
        v = g.inner("delta_v", "columns", active, start=2 * keys, stop=2 * keys + columns)
        step = g.inner("delta_step", "softplus", g.inner("delta_alpha", "bias_add", alpha, g.weight("delta_step", heads, what="bias")))
        decay = g.apply("delta_decay", "scale_columns", step, g.weight("delta_decay", heads))
        read = g.apply(
            "delta_rule", "delta_rule", q, k, v, decay, beta, key_heads=self.key_heads, scale=self.key_size**-0.5, tiled=self.tiled
        )
        norm = g.inner("delta_norm", "rms_norm", read, g.weight("delta_norm", columns // heads), eps=self.eps, groups=heads)
        gated = g.apply("delta_gated", "mul", norm, g.inner("delta_gate_open", "silu", gate))
        return g.linear("attn_out", gated, self.hidden, slot="delta_out")

    def delta_input(self, g: GraphBuilder, x: str) -> tuple[str, str]:
        """q, k and v side by side, and the gate of the output.

        The first GGUF files have all four in one weight, as checkpoints do: the rows of each head of q and k, and those of v and of the
        gate that go with it.
        """
        keys, columns, size = self.key_heads * self.key_size, self.delta_columns, self.key_size
        if not g.has("delta_in"):
            mixed = g.linear("conv_in", x, 2 * keys + columns, slot="qkv_matmul", bias=False)
            return mixed, g.linear("delta_gate", x, columns, bias=False)
        whole = g.inner("delta_in", "linear", x, g.weight("delta_in", 2 * (keys + columns), self.hidden))
        ends = (0, size, 2 * size, 2 * size + columns // self.key_heads, 2 * size + 2 * columns // self.key_heads)
        q, k, v = (
            g.inner(f"conv_in_{name}", "columns", whole, start=start, stop=stop, heads=self.key_heads)
            for name, (start, stop) in zip("qkv", pairwise(ends[:4]), strict=True)
        )
        mixed = g.apply("conv_in", "join_heads", g.inner("conv_in_qk", "join_heads", q, k, heads=1), v, heads=1)
        return mixed, g.apply("delta_gate", "columns", whole, start=ends[3], stop=ends[4], heads=self.key_heads)

    def beta_and_alpha(self, g: GraphBuilder, x: str) -> tuple[str, str]:
        """What `delta_beta` and `delta_decay` are made of. One weight has both: of each head of q and k, the heads of v that go with it."""
        share = self.delta_heads // self.key_heads
        both = g.inner("delta_beta_decay", "linear", x, g.weight("delta_beta_decay", 2 * self.delta_heads, self.hidden))
        beta, alpha = (
            g.inner(f"delta_{name}_raw", "columns", both, start=start, stop=start + share, heads=self.key_heads)
            for name, start in (("beta", 0), ("decay", share))
        )
        return beta, alpha
