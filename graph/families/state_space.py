"""Layers with a state space model (Mamba 2, Dao and Gu 2024, arXiv:2405.21060) in place of attention."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from aprgraph.graph.errors import ModelError
from aprgraph.graph.families.base import Family
from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.numbers import Reading, number

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder


class StateSpace(Family):
    """A family some or all of whose layers have a state space model."""

    gguf_names = {"conv_out": "ssm_conv1d", "ssm_decay": "ssm_a", "ssm_skip": "ssm_d"}
    hf_names = {
        "ssm_in": "mixer.in_proj",
        "conv_out": "mixer.conv1d",
        "ssm_dt": "mixer.dt_bias",
        "ssm_decay": "mixer.A_log",
        "ssm_skip": "mixer.D",
        "ssm_norm": "mixer.norm",
        "ssm_out": "mixer.out_proj",
    }
    #: The field of config.json for the number of groups, and what the class takes without it.
    hf_groups: ClassVar[tuple[str, int]] = ("n_groups", 8)
    #: The positions of the short convolution, the heads, the groups of B and C, the size of each of these, and the columns of all heads.
    conv_size = number("ssm.conv_kernel", "conv_kernel", least=2)
    ssm_heads = number("ssm.time_step_rank", "num_heads")
    groups = number("ssm.group_count", "n_groups")
    state_size = number("ssm.state_size", "state_size")
    inner = number("ssm.inner_size", "num_heads * head_dim")
    #: The groups of columns that the norm of what the state space gives is over.
    norm_groups: Reading[int] = Reading(lambda f: f.groups)

    def check(self) -> None:
        """Raise ModelError for heads that do not divide among each other."""
        super().check()
        for name, count, parts, divisor in (
            ("time_step_rank", self.ssm_heads, "group_count", self.groups),
            ("inner_size", self.inner, "time_step_rank", self.ssm_heads),
            ("inner_size", self.inner, "group_count", self.groups),
        ):
            if count % divisor:
                where, key, other = self.metadata.path, self.named(f"ssm.{name}"), self.named(f"ssm.{parts}")
                raise ModelError(f"{where}: {key} is {count}, expected a multiple of {other}, {divisor}")

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """GGUF has the rates of decay themselves, and a row of the norm's weights for each group."""
        if slot == "ssm_decay":
            return {slot: Conversion(values=lambda values: -np.exp(values.astype(np.float64)))}
        name, default = cls.hf_groups
        groups, size = config.get(name, default), cls.inner_of(config)
        if slot == "ssm_norm" and isinstance(groups, int) and groups > 1 and size % groups == 0:
            return {slot: Conversion(dims=(groups, size // groups))}
        return super().conversions(slot, config, what)

    @classmethod
    def inner_of(cls, config: Mapping[str, Any]) -> int:
        """The columns of all heads, by config.json; 0 where it does not say."""
        heads, size = config.get("num_heads"), config.get("head_dim")
        return heads * size if isinstance(heads, int) and isinstance(size, int) else 0

    def state_space(self, g: GraphBuilder, x: str, stage: str = "attn_out") -> str:
        """What the state gives for x, B and C that have passed a short convolution, gated and normalised; projected in ``stage``."""
        inner, keys, heads = self.inner, self.groups * self.state_size, self.ssm_heads
        rows = 2 * inner + 2 * keys + heads
        whole = g.inner("ssm_in", "linear", x, g.weight("ssm_in", rows, self.hidden))
        for bias in g.biases(("ssm_in", rows)):
            whole = g.inner("ssm_in_biased", "bias_add", whole, bias)
        gate = g.apply("ssm_gate", "columns", whole, start=0, stop=inner)
        mixed = g.apply("conv_in", "columns", whole, start=inner, stop=rows - heads)
        step = g.inner("ssm_dt", "columns", whole, start=rows - heads, stop=rows)
        weights = [g.weight("conv_out", inner + 2 * keys, self.conv_size), *g.biases(("conv_out", inner + 2 * keys))]
        active = g.apply("conv_silu", "silu", g.apply("conv_out", "short_conv", mixed, *weights))
        parts = pairwise(accumulate((inner, keys, keys), initial=0))
        value, b, c = (g.inner(f"ssm_{name}", "columns", active, start=a, stop=z) for name, (a, z) in zip("xbc", parts, strict=True))
        step = g.apply("ssm_step", "softplus", g.inner("ssm_dt_biased", "bias_add", step, g.weight("ssm_dt", heads, what="bias")))
        decay = g.inner("ssm_decay", "scale_columns", step, g.weight("ssm_decay", heads))
        read = g.apply("ssm_scan", "ssm_scan", value, b, c, decay, step, g.weight("ssm_skip", heads), groups=self.groups)
        return g.linear(stage, self.gated_space(g, read, gate), self.hidden, slot="ssm_out")

    def gated_space(self, g: GraphBuilder, read: str, gate: str) -> str:
        """What the state space gives times act(gate), after a norm of each group."""
        gated = g.inner("ssm_gated", "mul", read, g.inner("ssm_gate_open", "silu", gate))
        groups = self.norm_groups
        weight = g.weight("ssm_norm", *((groups,) if groups > 1 else ()), self.inner // groups)
        return g.apply("ssm_norm", "rms_norm", gated, weight, eps=self.eps, groups=groups)
