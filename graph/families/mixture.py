"""Mixtures of experts in place of the dense network (Shazeer et al. 2017, arXiv:1701.06538)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.numbers import Reading, flag, number, real, same_in_all

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

_MAX_EXPERTS = 1 << 16
#: As files number them.
SOFTMAX, SIGMOID = 1, 2
_GATINGS = {SOFTMAX: "softmax", SIGMOID: "sigmoid"}


class Mixture(Decoder):
    """A decoder whose feed-forward networks are experts, some of which a router chooses for each position."""

    #: Whether the weights of the chosen experts are divided by their sum, where the file does not say.
    normalises: ClassVar[bool] = True
    #: Whether the weight of a chosen expert goes into its input, and not into its output.
    weighs_inputs: ClassVar[bool] = False
    #: How scores become weights, which `expert_gating_func` may say too.
    gating_function: ClassVar[int] = SOFTMAX
    #: What `expert_gating_func` may be, where it is not 0 or the family's own.
    other_gatings: ClassVar[Collection[int]] = ()

    experts = number("expert_count", "num_experts", most=_MAX_EXPERTS)
    chosen = same_in_all("expert_used_count", "num_experts_per_tok", given="experts")
    expert_ffn = same_in_all("expert_feed_forward_length", "moe_intermediate_size", lambda f: f.default_expert_ffn(), given="experts")
    normalise = flag("expert_weights_norm", "norm_topk_prob", lambda f: f.normalises, given="experts")
    expert_scale = real("expert_weights_scale", None, 1.0, given="experts")
    gating = number("expert_gating_func", None, 0, least=0, given="experts")
    #: How many layers, the first ones, have a dense network in place of experts.
    dense_layers: Reading[int] = Reading(lambda _: 0)

    def check(self) -> None:
        """Raise UnsupportedModelError for another kind of router, and ModelError for counts that do not fit."""
        super().check()
        if not self.experts:
            return
        where, used_key, count_key = self.metadata.path, self.named("expert_used_count"), self.named("expert_count")
        if self.chosen > self.experts:
            raise ModelError(
                f"{where}: {used_key} is {self.chosen}, but there are {self.experts} experts ({count_key}); expected at most that many"
            )
        gatings = (self.gating_function, *self.other_gatings)
        if self.gating not in (0, *gatings):  # 0 and none: the family's
            supported = " and ".join(f"{gating}, the {_GATINGS[gating]}" for gating in gatings)
            raise UnsupportedModelError(f"{where}: {self.named('expert_gating_func')} is {self.gating}; supported is {supported}")

    def default_expert_ffn(self) -> int:
        """The size of an expert if the file does not say it: the dense size divided by the number of chosen experts."""
        return max(self.ffn[0] // self.chosen, 1)

    def feed_forward(self, g: GraphBuilder, x: str, layer: int) -> str:
        """The weighted sum of the chosen experts' outputs, with that of a shared expert where the family has one."""
        if not self.experts or not self.has_experts(layer):
            return super().feed_forward(g, x, layer)
        return self.mix(g, x, self.shared_expert(g, x) if self.shared_ffn else None)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has experts, in a model that has some."""
        return layer >= self.dense_layers

    def shared_expert(self, g: GraphBuilder, x: str) -> str:
        """The output of the expert that every position uses."""
        gate = g.linear("ffn_gate", x, self.shared_ffn, slot="shared_gate")
        up = g.linear("ffn_up", x, self.shared_ffn, slot="shared_up")
        return self.down(g, gate, up, slot="shared_out")

    def mix(self, g: GraphBuilder, x: str, shared: str | None = None) -> str:
        """The weighted sum of the chosen experts, plus ``shared``, the output of a shared expert, if any.

        Where weights go into the inputs, the sum is without.
        """
        scores = g.linear("moe_router_logits", self.router_input(g, x), self.experts)
        # Ids before weights: the weights are of the experts that were chosen.
        ids = self.choose(g, self.choose_by(g, scores))
        weights = self.weigh(g, scores, ids)
        given = g.apply("moe_expert_in", "expert_inputs", x, weights) if self.weighs_inputs else self.expert_input(g, x)
        outputs = g.expert_linear("moe_expert_out", self.expert_product(g, given, ids), ids, self.experts, self.expert_width)
        terms = (outputs,) if self.weighs_inputs else (outputs, weights)
        if shared is None:
            return g.apply("moe_ffn_out", "expert_sum", *terms)
        return g.add("moe_ffn_out", self.sum_experts(g, *terms), shared)

    @property
    def expert_width(self) -> int:
        """How many elements an expert reads and gives."""
        return self.hidden

    def sum_experts(self, g: GraphBuilder, *terms: str) -> str:
        """What a shared expert's output is added to: the sum of the experts' outputs, times their weights where ``terms`` has these too."""
        return g.inner("moe_expert_sum", "expert_sum", *terms)

    def router_input(self, g: GraphBuilder, x: str) -> str:
        """What the router reads, of what the layer's experts are given."""
        return x

    def expert_input(self, g: GraphBuilder, x: str) -> str:
        """What the experts read, of what they are given."""
        return x

    def weigh(self, g: GraphBuilder, scores: str, ids: str) -> str:
        """The weights of the chosen experts."""
        return g.apply("moe_router", "router_weights", scores, ids, **self.weighing(g))

    def weighing(self, g: GraphBuilder) -> dict[str, Any]:
        """How scores become weights: the attributes of the op."""
        return {"normalise": self.normalise, "scale": self.expert_scale, "gating": _GATINGS[self.gating_of(g)]}

    def expert_product(self, g: GraphBuilder, x: str, ids: str) -> str:
        """What the down projections of the chosen experts are given."""
        return self.activate_expert(g, *self.expert_gate_and_up(g, x, ids))

    def expert_gate_and_up(self, g: GraphBuilder, x: str, ids: str) -> tuple[str, str]:
        """The gate projections and the up projections of the chosen experts, whose weights a file may hold as one."""
        if g.has("moe_expert_gate_up"):
            return g.expert_gate_and_up_in_one(x, ids, self.experts, self.expert_ffn)
        gate = g.expert_linear("moe_expert_gate", x, ids, self.experts, self.expert_ffn)
        return gate, g.expert_linear("moe_expert_up", x, ids, self.experts, self.expert_ffn)

    def gating_of(self, g: GraphBuilder) -> int:
        """How scores become weights in the layer at hand, as files number it."""
        return self.gating_function

    def choose(self, g: GraphBuilder, scores: str) -> str:
        """The ids of the chosen experts."""
        return g.apply("moe_router_indices", "top_k", scores, k=self.chosen)

    def choose_by(self, g: GraphBuilder, scores: str) -> str:
        """What the experts are chosen by: the router's scores, or with a bias that takes no part in their weights."""
        return scores

    def biased_sigmoids(self, g: GraphBuilder, scores: str, *, needs_bias: bool = False) -> str:
        """The sigmoids of the scores, plus a bias that was learnt to spread the load (arXiv:2408.15664), if there is one."""
        if not needs_bias and not g.has("moe_router_scores", "bias"):
            return g.apply("moe_router_scores", "sigmoid", scores)
        return self.biased_shares(g, scores, "sigmoid")

    def biased_shares(self, g: GraphBuilder, scores: str, op: str) -> str:
        """What ``op`` makes of the scores, plus the bias of the choice."""
        shares = g.inner("moe_router_shares", op, scores)
        return g.apply("moe_router_scores", "bias_add", shares, *g.biases(("moe_router_scores", self.experts), needed=True))

    def activate_expert(self, g: GraphBuilder, gate: str, up: str) -> str:
        """The activation of an expert: act(gate) · up."""
        return g.apply("moe_expert_swigl", "mul", g.inner("moe_expert_activated", self.activation, gate), up)
