"""Layers with a selective state space (Mamba, Gu and Dao 2023, arXiv:2312.00752): each column has a state, and a time step, of its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.families.numbers import Reading, number
from aprgraph.graph.families.state_space import StateSpace

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class SelectiveSpace(StateSpace):
    """A family some or all of whose layers have the state space of the first Mamba: each column of x is a head.

    The time steps are made of a projection to a low rank, as B and C are made of what has passed the short convolution.
    """

    gguf_names = {**StateSpace.gguf_names, "ssm_dt_b_c": "ssm_x"}
    hf_names = {
        "ssm_in": "mixer.in_proj",
        "conv_out": "mixer.conv1d",
        "ssm_dt_b_c": "mixer.x_proj",
        "ssm_dt": "mixer.dt_proj",
        "ssm_decay": "mixer.A_log",
        "ssm_skip": "mixer.D",
        "ssm_out": "mixer.out_proj",
    }
    #: The rank of the projection that the time steps are made of.
    rank = number("ssm.time_step_rank", "time_step_rank")
    inner = number("ssm.inner_size", "intermediate_size")
    ssm_heads: Reading[int] = Reading(lambda f: f.inner)
    #: Of B and C there is one, and files do not say so.
    groups: Reading[int] = Reading(lambda f: f.metadata.positive(f.key("ssm.group_count"), 1))
    absent_keys: ClassVar[Collection[str]] = ("ssm.group_count",)

    def check(self) -> None:
        """Raise UnsupportedModelError for several groups of B and C."""
        if self.groups != 1:
            raise UnsupportedModelError(
                f"{self.metadata.path}: {self.named('ssm.group_count')} is {self.groups}; supported is 1: all columns share B and C"
            )
        super().check()

    def state_space(self, g: GraphBuilder, x: str, stage: str = "attn_out") -> str:
        """What the state of each column gives, gated; projected in ``stage``."""
        inner, rank, keys = self.inner, self.rank, self.state_size
        whole = g.inner("ssm_in", "linear", x, g.weight("ssm_in", 2 * inner, self.hidden))
        for bias in g.biases(("ssm_in", 2 * inner)):
            whole = g.inner("ssm_in_biased", "bias_add", whole, bias)
        gate = g.apply("ssm_gate", "columns", whole, start=inner, stop=2 * inner)
        mixed = g.apply("conv_in", "columns", whole, start=0, stop=inner)
        weights = [g.weight("conv_out", inner, self.conv_size), *g.biases(("conv_out", inner))]
        active = g.apply("conv_silu", "silu", g.apply("conv_out", "short_conv", mixed, *weights))
        three = g.apply("ssm_dt_b_c", "linear", active, g.weight("ssm_dt_b_c", rank + 2 * keys, inner))
        step = self.normed(g, "dt", g.inner("ssm_dt", "columns", three, start=0, stop=rank))
        b = self.normed(g, "b", g.inner("ssm_b", "columns", three, start=rank, stop=rank + keys))
        c = self.normed(g, "c", g.inner("ssm_c", "columns", three, start=rank + keys, stop=rank + 2 * keys))
        step = g.inner("ssm_dt_matmul", "linear", step, g.weight("ssm_dt", inner, rank))
        step = g.apply("ssm_step", "softplus", g.inner("ssm_dt_biased", "bias_add", step, g.weight("ssm_dt", inner, what="bias")))
        rates = g.weight("ssm_decay", inner, keys)
        read = g.apply("ssm_scan", "ssm_scan", active, b, c, step, step, g.weight("ssm_skip", inner), rates, groups=1)
        gated = g.apply("ssm_gated", "mul", read, g.inner("ssm_gate_open", "silu", gate))
        return g.linear(stage, gated, self.hidden, slot="ssm_out")

    def normed(self, g: GraphBuilder, part: str, x: str) -> str:
        """What the time steps are made of (``part`` "dt"), B or C, normalised where the family does."""
        return x
