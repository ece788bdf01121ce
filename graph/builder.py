"""The builder with which a family writes its graph. Stages go by name, weights by slot.

A slot is a weight's place in a model. It is named after the stage that reads it (families/weight_names.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aprgraph.graph.errors import GraphError, shown
from aprgraph.graph.families.base import Family, Order
from aprgraph.graph.families.misspelt import check_slots
from aprgraph.graph.families.own_code import own_code
from aprgraph.graph.families.rope_scaling import Rope
from aprgraph.graph.heads import Heads
from aprgraph.graph.ir import Attr, Graph
from aprgraph.graph.node_builder import NodeBuilder, Tensors, require_stage

__all__ = ["GraphBuilder", "Heads", "Tensors"]


class GraphBuilder(NodeBuilder):
    """Adds the stages of a model in execution order: methods take and return names of nodes.

    Inside ``layers``, nodes belong to the current layer and read its weights. Methods raise ModelError for a tensor that is
    missing, or whose dims are not those that the family's numbers give.
    """

    def __init__(self, tensors: Tensors, family: Family, name: str) -> None:
        super().__init__(tensors, family, name)
        #: By layer, the keys and values that it attends to: those of earlier passes, and of this one.
        self._kept: dict[int | None, tuple[Heads, Heads | int]] = {}

    def build(self) -> Graph:
        """The graph that the family writes. Raises GraphError for ops that are not used as they are declared."""
        try:
            with own_code(type(self.family)):
                logits = self.family.graph(self)
                if logits not in self.graph:
                    raise GraphError(f"graph() returned {shown(logits)}, expected the name of the node of the logits")
        finally:
            check_slots(type(self.family), self.asked)  # also where a tensor is missing, which may be why
        self.graph.outputs = (logits,)
        return self.graph

    # -- the residual stream ------------------------------------------------------------------------------------------

    def embedding_table(self, hidden: int) -> str:
        """The embedding table, [V, E]."""
        return self.weight("embedding", self.vocabulary, hidden)

    def embed(self, stage: str, table: str, scale: float = 1.0) -> str:
        """The embedding of each token times ``scale``. The stage counts as one of layer 0."""
        return self._add(f"layer0.{stage}", "embed", ("tokens", table), {"scale": scale}, stage, 0)

    def embed_with_positions(self, stage: str, table: str, positions: str, types: str | None = None) -> str:
        """The embedding of each token plus that of its position, a row of ``positions`` [context, E].

        With ``types`` [T, E] its first row too: every token is of the first type.
        """
        rows = [
            self._add(f"layer0.{stage}_of_{what}", "embed", (what, weight), {"scale": 1.0}, None, 0)
            for what, weight in (("tokens", table), ("positions", positions))
        ]
        if types is not None:
            rows[0] = self._add(f"layer0.{stage}_of_types", "row_add", (rows[0], types), {"row": 0}, None, 0)
        return self._add(f"layer0.{stage}", "add", rows, {}, stage, 0)

    def embed_with_types(self, stage: str, table: str, types: str | None) -> str:
        """The embedding of each token plus the first row of ``types`` [T, E], where there are some."""
        if types is None:
            return self.embed(stage, table)
        rows = self._add(f"layer0.{stage}_of_tokens", "embed", ("tokens", table), {"scale": 1.0}, None, 0)
        return self._add(f"layer0.{stage}", "row_add", (rows, types), {"row": 0}, stage, 0)

    def norm_embedding(self, stage: str, x: str) -> str:
        """The family's norm of the embedding. The stage counts as one of layer 0, the weight is the model's."""
        weights = [self.weight(stage, self.width(x), what=what) for what in ("weight", *["bias"] * self.family.norm_bias)]
        attrs: dict[str, Attr] = {"eps": self.family.eps, "groups": 1}
        return self._add(f"layer0.{stage}", self.family.norm_op, (x, *weights), attrs, stage, 0)

    def of_embedding(self, stage: str, op: str, *operands: str, **attrs: Attr) -> str:
        """Add the node of a stage that is made of the embedding before the first layer. It counts as one of layer 0."""
        return self._add(f"layer0.{stage}", op, operands, attrs, stage, 0)

    def norm(self, stage: str, x: str | Heads, *, slot: str | None = None, eps: float | None = None) -> str:
        """The family's norm over whole rows; of heads, over all heads of a position together.

        ``slot``: that of its weight, if not the stage's name. ``eps``: if not the family's.
        """
        require_stage(stage)
        node = self.columns(x) if isinstance(x, Heads) else x
        return self._normalise(stage, node, (self.width(node),), groups=1, needs_bias=self.family.norm_bias, eps=eps, slot=slot)

    def _normalise(
        self,
        stage: str,
        x: str,
        dims: tuple[int, ...],
        *,
        groups: int,
        needs_bias: bool = False,
        eps: float | None = None,
        slot: str | None = None,
    ) -> str:
        """An RMSNorm or LayerNorm over each of ``groups`` parts of a row, by a weight of ``dims``, without one if these are
        empty. LayerNorms may have a bias.
        """
        slot = slot or stage
        weights = [self.weight(slot, *dims)] if self.family.norm_weights and dims else []
        if weights and self.family.norm_op == "layer_norm" and (needs_bias or self.has(slot, "bias")):
            weights.append(self.weight(slot, *dims, what="bias"))
        return self.apply(stage, self.family.norm_op, x, *weights, eps=self.family.eps if eps is None else eps, groups=groups)

    def linear(self, stage: str, x: str, rows: int, *, slot: str | None = None, bias: bool = True) -> str:
        """A matrix product with the weight of ``slot`` (default: the stage's name), of ``rows`` output features.

        A bias that the file has is added unless ``bias`` is False. The stage is the value after the bias.
        """
        require_stage(stage)
        slot = slot or stage
        weight = self.weight(slot, rows, self.width(x))
        biases = self.biases((slot, rows)) if bias else []
        if not biases:
            return self.apply(stage, "linear", x, weight)
        return self.apply(stage, "bias_add", self.inner(f"{stage}_matmul", "linear", x, weight), *biases)

    def gate_and_up_in_one(self, x: str, columns: int, slot: str = "ffn_gate_up") -> tuple[str, str]:
        """The stages `ffn_gate` and `ffn_up`, from one weight: the rows of gate, then the rows of up."""
        both = self.inner(slot, "linear", x, self.weight(slot, 2 * columns, self.width(x)))
        gate = self.apply("ffn_gate", "columns", both, start=0, stop=columns)
        return gate, self.apply("ffn_up", "columns", both, start=columns, stop=2 * columns)

    def expert_gate_and_up_in_one(self, x: str, ids: str, experts: int, columns: int) -> tuple[str, str]:
        """The stages `moe_expert_gate` and `moe_expert_up`, from one weight: of each expert the rows of gate, then those of up."""
        weight = self.weight("moe_expert_gate_up", experts, 2 * columns, self.width(x))
        both = self.inner("moe_expert_gate_up", "expert_linear", x, ids, weight)
        gate = self.apply("moe_expert_gate", "columns", both, start=0, stop=columns)
        return gate, self.apply("moe_expert_up", "columns", both, start=columns, stop=2 * columns)

    def expert_linear(self, stage: str, x: str, ids: str, experts: int, rows: int) -> str:
        """The matrix products of the chosen experts, ``ids`` [n, k], with their biases if the file has some.

        ``x`` has one row for a position, which all its experts read, or one row for each of its experts.
        """
        require_stage(stage)
        weight = self.weight(stage, experts, rows, self.width(x))
        if not self.has(stage, "bias"):
            return self.apply(stage, "expert_linear", x, ids, weight)
        product = self.inner(f"{stage}_matmul", "expert_linear", x, ids, weight)
        return self.apply(stage, "expert_bias_add", product, ids, self.weight(stage, experts, rows, what="bias"))

    def add(self, stage: str, a: str, b: str) -> str:
        """a + b."""
        return self.apply(stage, "add", a, b)

    def last(self, x: str) -> str:
        """The row of the last position alone."""
        return self.inner("last_position", "last_row", x)

    def head(self, stage: str, x: str) -> str:
        """The logits. A file without the weight of the LM head ties it to the embedding table."""
        slot = "lm_head" if self.has("lm_head") else "embedding"
        return self.linear(stage, x, self.vocabulary, slot=slot, bias=False)

    # -- RoPE ---------------------------------------------------------------------------------------------------------

    def frequency_factors(self, rope: Rope, original_context: int) -> str | None:
        """The factors that divide RoPE's frequencies: one set (Llama 3.1), two to choose from (LongRoPE), or None."""
        count = rope.dims // 2
        if self.has("rope_freqs"):
            return self.weight("rope_freqs", count)
        names = ("rope_factors_short", "rope_factors_long")
        if not any(map(self.has, names)):
            return None
        short, long = (self.weight(name, count) for name in names)
        return self.inner("rope_factors", "context_choice", short, long, limit=original_context)

    def angles(self, name: str, rope: Rope, factors: str | None = None) -> str:
        """The RoPE angles, one for each position and pair of elements."""
        start, end = rope.ramp
        operands = ["positions", factors] if factors else ["positions"]
        return self.inner(
            name, "rope_angles", *operands,
            base=rope.base, dims=rope.dims, scale=rope.scale, ramp_start=start, ramp_end=end, magnitude=rope.magnitude,
        )  # fmt: skip

    def rope(self, x: Heads, angles: str, pairing: Order, *, stage: str | None = None) -> Heads:
        """RoPE on heads of q or k: the stage `q_post_rope` or `k_post_rope`, or another."""
        stage = stage or f"{x.name}_post_rope"
        y = self.apply(stage, "rope", x.value, angles, heads=x.count, head_size=x.size, start=x.start, pairing=pairing)
        return Heads(y, 0, x.count, x.size, x.name)

    # -- attention ----------------------------------------------------------------------------------------------------

    def qkv(
        self, x: str, heads: int, kv_heads: int, head_size: int, value_size: int, *, needs_bias: bool = False
    ) -> tuple[Heads, Heads, Heads]:
        """The heads of q, k and v, with their biases if the file has some. ``needs_bias``: the file must have them."""
        wanted = ("q", heads, head_size), ("k", kv_heads, head_size), ("v", kv_heads, value_size)
        q, k, v = self.side_by_side(x, *wanted, needs_bias=needs_bias)
        return q, k, v

    def side_by_side(self, x: str, *wanted: tuple[str, int, int], needs_bias: bool = False) -> list[Heads]:
        """The heads of q, k and v, or of those of them that a layer has: what, how many heads, and their size, of each."""
        rows = [(name, count * size) for name, count, size in wanted]
        parts = [("qkv_matmul", sum(count for _, count in rows))] if self.has("qkv_matmul") else rows
        weights = [self.weight(slot, count, self.width(x)) for slot, count in parts]
        y = self.apply("qkv_matmul", "linear", x, *weights)
        biases = self.biases(*parts, needed=needs_bias)
        if biases:
            y = self.apply("qkv_bias", "bias_add", y, *biases)
        starts = [sum(count for _, count in rows[:index]) for index in range(len(rows))]
        return [Heads(y, start, count, size, name) for start, (name, count, size) in zip(starts, wanted, strict=True)]

    def norm_heads(self, x: Heads, *, own_weights: bool = False, has_weights: bool = True) -> Heads:
        """The family's norm over each head of q, k or v: the stage `q_norm`, `k_norm` or `v_norm`.

        ``own_weights``: each head has weights of its own, a row of a matrix. Only LayerNorms may. ``has_weights``: whether
        there are weights, in a family whose norms have some.
        """
        dims = (x.count, x.size) if own_weights else (x.size,)
        y = self._normalise(f"{x.name}_norm", self.columns(x), dims if has_weights else (), groups=x.count)
        return Heads(y, 0, x.count, x.size, x.name)

    def norm_row(self, x: Heads) -> Heads:
        """The family's norm over all heads of q or k together: the stage `q_norm` or `k_norm`."""
        return Heads(self.norm(f"{x.name}_norm", x), 0, x.count, x.size, x.name)

    def attend(
        self,
        q: Heads,
        k: Heads,
        v: Heads | int,
        *,
        scale: float,
        window: int = 0,
        causal: bool = True,
        chunked: bool = False,
        symmetric: bool = False,
        cap: float = 0.0,
        sinks: str | None = None,
        stage: str = "attention",
    ) -> str:
        """The stages `attn_scores`, `attn_softmax` and ``stage``. k and v are appended to the KV cache first.

        ``v`` may be a number: the heads of v are then that many elements of the heads of k, the first ones. ``chunked``:
        the window is the chunk of positions that a position stands in; ``symmetric``: it reaches half of its size to either
        side. ``cap`` is the limit of a soft cap on the scores (0: none). ``sinks`` is a weight [H]: one more score for each
        head, which takes part in the softmax and has no value.
        """
        own = None if isinstance(v, int) else self.columns(v)
        keys = self.inner("k_cache" if own else "kv_cache", "cache", k)
        values = self.inner("v_cache", "cache", own) if own else keys
        kept = v if isinstance(v, int) else replace(v, value=values, start=0)
        self._kept[self.layer] = replace(k, value=keys, start=0), kept
        mask: dict[str, Any] = {"window": window, "causal": causal, "chunked": chunked, "symmetric": symmetric}
        return self.attend_again(q, self.layer, scale=scale, cap=cap, sinks=sinks, stage=stage, **mask)

    def attend_again(
        self,
        q: Heads,
        layer: int | None,
        *,
        scale: float,
        window: int = 0,
        causal: bool = True,
        chunked: bool = False,
        symmetric: bool = False,
        cap: float = 0.0,
        sinks: str | None = None,
        stage: str = "attention",
    ) -> str:
        """``attend`` over what an earlier ``layer`` attended to, whose KV cache this one shares."""
        k, v = self._kept[layer]
        keys, values = k.value, k.value if isinstance(v, int) else v.value
        mask: dict[str, Attr] = {
            "window": window, "causal": causal, "chunked": chunked and window > 0, "symmetric": symmetric and window > 0,
        }  # fmt: skip
        scores = self.apply("attn_scores", "attn_scores", q, keys, heads=q.count, kv_heads=k.count, scale=scale, cap=cap, **mask)
        softmax = self.apply("attn_softmax", "attn_softmax", scores, *([sinks] if sinks else []), **mask)
        mix: dict[str, Attr] = {"kv_heads": k.count, "value_size": v} if isinstance(v, int) else {"kv_heads": v.count}
        return self.apply(stage, "attn_mix", softmax, values, **mix, **mask)
