"""The builder with which a family writes its graph. Stages go by name, weights by slot.

A slot is a weight's place in a model. It is named after the stage that reads it (families/weight_names.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from aprgraph.graph.errors import GraphError, UnsupportedModelError, shown
from aprgraph.graph.families.base import Family, Order
from aprgraph.graph.families.misspelt import check_slots
from aprgraph.graph.families.own_code import own_code
from aprgraph.graph.families.rope_scaling import Rope
from aprgraph.graph.heads import Heads
from aprgraph.graph.ir import Attr, Graph, Node, TensorType
from aprgraph.graph.ops import OPS, Op
from aprgraph.graph.sources.source import TensorInfo
from aprgraph.graph.stage_declarations import declare_stages
from aprgraph.graph.stage_suggestions import did_you_mean
from aprgraph.graph.stages import STAGE_BY_NAME

__all__ = ["GraphBuilder", "Heads", "Tensors"]

#: Dims of a weight that holds all experts.
_EXPERT_DIMS = 3


class Tensors(Protocol):
    """The tensors that a graph is built for: those of a model file, or any that are asked for (graph/outline.py)."""

    def has(self, name: str) -> bool:
        """Whether there is the tensor ``name``."""

    def tensor(self, name: str, dims: tuple[int, ...] | None = None) -> TensorInfo:
        """The tensor ``name``, outermost dimension first. Raises ModelError if it is missing or has other ``dims``."""

    def lacks(self, names: Sequence[str], beside: str) -> None:
        """Raise ModelError: the tensor ``beside`` is there, but ``names``, which belong with it, are missing."""

    @property
    def vocabulary(self) -> int:
        """The number of token ids."""


class GraphBuilder:
    """Adds nodes in execution order. The node of a stage bears the name of the stage.

    Methods take and return names of nodes. Inside ``layers``, nodes belong to the current layer and read its weights.
    Methods raise ModelError for a tensor that is missing, or whose dims are not those that the family's numbers give.
    """

    def __init__(self, tensors: Tensors, family: Family, name: str) -> None:
        self.tensors, self.family = tensors, family
        self.layer: int | None = None
        whole: dict[str, Attr] = {"architecture": family.architecture, "layers": family.layers, "context": family.context}
        self.graph = Graph(name, {**whole, **declare_stages(family.stages)})
        self.vocabulary = tensors.vocabulary
        #: By layer, the keys and values that it attends to: those of earlier passes, and of this one.
        self._kept: dict[int | None, tuple[Heads, Heads | int]] = {}
        #: The slots whose tensors were asked for, there or not.
        self.asked: set[str] = set()
        #: By tensor name: the slot, the kind ("weight", "bias" or "scale"), and the layer (None outside the layers).
        self.slots: dict[str, tuple[str, str, int | None]] = {}
        self._add("tokens", "input")
        self._add("positions", "input")

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

    def layers(self, count: int) -> Iterator[int]:
        """Iterate over ``count`` layers. Nodes that are added meanwhile belong to the layer of the iteration."""
        for self.layer in range(count):
            yield self.layer
        self.layer = None

    # -- ops ----------------------------------------------------------------------------------------------------------

    def apply(self, stage: str, op: str | Op, *operands: str | Heads, **attrs: Attr) -> str:
        """Add the node of a stage. ``op`` is an op, or the name of one in ``OPS``."""
        _require_stage(stage)
        name = stage if self.layer is None else f"layer{self.layer}.{stage}"
        return self._add(name, op, operands, attrs, stage, self.layer)

    def inner(self, name: str, op: str | Op, *operands: str | Heads, **attrs: Attr) -> str:
        """Add a node that is not a stage, and so cannot be tapped."""
        return self._add(name if self.layer is None else f"layer{self.layer}.{name}", op, operands, attrs, None, self.layer)

    def _add(
        self,
        name: str,
        op: str | Op,
        operands: Sequence[str | Heads] = (),
        attrs: Mapping[str, Attr] | None = None,
        stage: str | None = None,
        layer: int | None = None,
    ) -> str:
        """Add a node with the type that its op infers, without the attributes that have their default."""
        names = [self.columns(operand) if isinstance(operand, Heads) else operand for operand in operands]
        try:
            op = op if isinstance(op, Op) else _op(op)
            given = {key: value for key, value in (attrs or {}).items() if key not in op.defaults or value != op.defaults[key]}
            result = op.result([self._type(operand) for operand in names], given)
        except GraphError as error:
            raise GraphError(f"%{name}: {error}") from None
        self.graph.add(Node(name, op.name, result, given, stage, layer), names)
        return name

    def _type(self, x: str) -> TensorType:
        """The type of a node. Raises GraphError for what is no node's name, such as None from a method without a return."""
        if not isinstance(x, str):
            raise GraphError(f"an operand is {shown(x)}, expected the name of a node, or heads; is there a return missing in a method?")
        return self.graph[x].type

    def width(self, x: str) -> int:
        """How many columns the node ``x`` has."""
        columns = self._type(x).dims[-1]
        assert isinstance(columns, int)
        return columns

    def heads(self, name: str, value: str, count: int, size: int, *, start: int = 0) -> Heads:
        """The columns of the node ``value`` from ``start`` on as heads. ``name`` is what they are, "q", "k" or "v"."""
        return Heads(value, start, count, size, name)

    def columns(self, x: Heads) -> str:
        """A node that holds the heads ``x`` and nothing else."""
        if x.start == 0 and self.width(x.value) == x.columns:
            return x.value
        return self.inner(x.name, "columns", x.value, start=x.start, stop=x.start + x.columns)

    # -- weights ------------------------------------------------------------------------------------------------------

    def tensor_name(self, slot: str, what: str = "weight") -> str:
        """The name of a slot's tensor in the GGUF file. ``what`` is "weight", "bias" or "scale"."""
        self.asked.add(slot)
        name = self.family.tensor_name(slot, what)
        return name if self.layer is None else f"blk.{self.layer}.{name}"

    def has(self, slot: str, what: str = "weight") -> bool:
        """Whether the file has a slot's tensor."""
        return self.tensors.has(self.tensor_name(slot, what))

    def weight(self, slot: str, *dims: int, what: str = "weight") -> str:
        """The node of a slot's tensor, which has ``dims`` (outermost first). It is added at its first use."""
        name = self.tensor_name(slot, what)
        info = self.tensors.tensor(name, dims)
        if name not in self.graph:
            dtype = info.format.name.lower()
            attrs: dict[str, Attr] = {"tensor": name, "dtype": dtype, "dims": dims}
            if what == "weight" and (scale := self._scale_of(slot, info, dims)):
                attrs["scale"] = scale
            if info.layout:
                attrs["layout"] = info.layout
            self.graph.add(Node(name, "weight", TensorType(info.layout or dtype, dims), attrs))
            self.slots[name] = (slot, what, self.layer)
        return name

    def row(self, slot: str, columns: int) -> str:
        """The node of a weight with one row: [1, columns], or [columns] in some files."""
        name = self.tensor_name(slot)
        is_vector = self.tensors.has(name) and len(self.tensors.tensor(name).dims) == 1
        return self.weight(slot, *((columns,) if is_vector else (1, columns)))

    def table(self, slot: str, columns: int) -> str:
        """The node of a weight of as many rows as the file has, [rows, columns]: a vector is one row."""
        name = self.tensor_name(slot)
        dims = self.tensors.tensor(name).dims if self.tensors.has(name) else ()
        return self.weight(slot, dims[-2] if len(dims) > 1 else 1, columns)

    def biases(self, *wanted: tuple[str, int], needed: bool = False) -> list[str]:
        """The nodes of the biases of slots, each given as ``(slot, length)``.

        Empty if the file has none of them. Raises ModelError if it has some but not all, or has none and ``needed``
        is set.
        """
        names = {self.tensor_name(slot, "bias"): slot for slot, _ in wanted}
        there = [name for name in names if self.tensors.has(name)]
        if not there and not needed:
            return []
        missing = [name for name in names if name not in there]
        if there and missing:
            self.tensors.lacks(missing, there[0])
        return [self.weight(slot, length, what="bias") for slot, length in wanted]

    def _scale_of(self, slot: str, info: TensorInfo, dims: tuple[int, ...]) -> str | None:
        """The name of the tensor that scales a weight, if there is one.

        Raises UnsupportedModelError if kernels decode the weight's format: they do not apply a scale.
        """
        name = self.tensor_name(slot, "scale")
        if slot == "embedding" or not self.tensors.has(name) or self.family.tensor_name(slot, "scale") in self.family.gguf_names.values():
            return None  # the last: it is a weight of its own, which the graph applies
        if not info.format.is_decoded_when_bound:
            where = self.family.metadata.path
            raise UnsupportedModelError(
                f"{where}: tensor {name!r} scales a weight of {info.format.name}, which is not supported; expected one of NVFP4"
            )
        self.tensors.tensor(name, (dims[0] if len(dims) == _EXPERT_DIMS else 1,))
        self.slots[name] = (slot, "scale", self.layer)
        return name

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

    def norm_embedding(self, stage: str, x: str) -> str:
        """The family's norm of the embedding. The stage counts as one of layer 0, the weight is the model's."""
        weights = [self.weight(stage, self.width(x)), self.weight(stage, self.width(x), what="bias")]
        attrs: dict[str, Attr] = {"eps": self.family.eps, "groups": 1}
        return self._add(f"layer0.{stage}", self.family.norm_op, (x, *weights), attrs, stage, 0)

    def norm(self, stage: str, x: str | Heads, *, eps: float | None = None) -> str:
        """The family's norm over whole rows; of heads, over all heads of a position together. ``eps``: if not the family's."""
        _require_stage(stage)
        node = self.columns(x) if isinstance(x, Heads) else x
        return self._normalise(stage, node, (self.width(node),), groups=1, needs_bias=self.family.norm_bias, eps=eps)

    def _normalise(
        self, stage: str, x: str, dims: tuple[int, ...], *, groups: int, needs_bias: bool = False, eps: float | None = None
    ) -> str:
        """An RMSNorm or LayerNorm over each of ``groups`` parts of a row, by a weight of ``dims``, without one if these are
        empty. LayerNorms may have a bias.
        """
        weights = [self.weight(stage, *dims)] if self.family.norm_weights and dims else []
        if weights and self.family.norm_op == "layer_norm" and (needs_bias or self.has(stage, "bias")):
            weights.append(self.weight(stage, *dims, what="bias"))
        return self.apply(stage, self.family.norm_op, x, *weights, eps=self.family.eps if eps is None else eps, groups=groups)

    def linear(self, stage: str, x: str, rows: int, *, slot: str | None = None, bias: bool = True) -> str:
        """A matrix product with the weight of ``slot`` (default: the stage's name), of ``rows`` output features.

        A bias that the file has is added unless ``bias`` is False. The stage is the value after the bias.
        """
        _require_stage(stage)
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
        _require_stage(stage)
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


def _op(name: str) -> Op:
    if name not in OPS:
        raise GraphError(f"there is no op {shown(name)}; expected one of {', '.join(OPS)}")
    return OPS[name]


def _require_stage(name: str) -> None:
    """Raise GraphError for a stage that is not in the table: else its weight would be sought in the file, and said to be missing."""
    if name not in STAGE_BY_NAME:
        raise GraphError(f"there is no stage {shown(name)}{did_you_mean(str(name))}; a family may declare stages of its own, as `stages`")
