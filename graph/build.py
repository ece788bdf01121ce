"""From a model to its graph: the decoder-only transformer, resolved against the tensors that the file has."""

from __future__ import annotations

from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.gguf_file import TensorInfo
from aprgraph.graph.ir import Attr, Graph, Node, TensorType
from aprgraph.graph.model import Model
from aprgraph.graph.ops import OPS
from aprgraph.graph.side_tensors import pattern_of
from aprgraph.graph.verify import verify

_EMBEDDING = "token_embd.weight"
#: Dims of a weight that holds all experts.
_EXPERT_DIMS = 3


def build_graph(model: Model) -> Graph:
    """The computation graph of ``model``, verified; its one output is the logits of the last position, f32[1, V].

    Raises ModelError for a tensor that is missing or does not fit the metadata, and UnsupportedModelError for one that
    the graph would leave out: numbers traced without it would be silently wrong.
    """
    graph = _Builder(model).build()
    verify(graph)
    return graph


class _Builder:
    """Adds nodes in execution order. Stage nodes are named after their stage; the others after what they are."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.hp = model.hyperparameters
        stem = "".join(c if (c.isascii() and c.isalnum()) or c in "_.-" else "_" for c in model.path.stem)
        self.graph = Graph(stem, {"architecture": model.family.architecture, "layers": self.hp.layers, "context": self.hp.context})

    # -- adding nodes ---------------------------------------------------------------------------------------------------

    def op(self, op: str, name: str, *operands: str, stage: str | None = None, layer: int | None = None, **attrs: Attr) -> str:
        """Add one op; its type is inferred, and attributes that have their defaults are left out. Returns the node's name."""
        attrs = {key: value for key, value in attrs.items() if key not in OPS[op].defaults or value != OPS[op].defaults[key]}
        types = [self.graph[operand].type for operand in operands]
        result = OPS[op].infer(types, attrs)
        self.graph.add(Node(name, op, result, attrs, stage, layer), operands)
        return name

    def staged(self, op: str, layer: int | None, stage: str, *operands: str, **attrs: Attr) -> str:
        """Add the op that produces a stage."""
        name = stage if layer is None else f"layer{layer}.{stage}"
        return self.op(op, name, *operands, stage=stage, layer=layer, **attrs)

    def weight(self, tensor: str, *dims: int) -> str:
        """The weight ``tensor``, checked against ``dims`` (outermost first); added at its first use."""
        info = self.model.tensor(tensor, dims)
        if tensor not in self.graph:
            dtype = info.format.name.lower()
            attrs: dict[str, Attr] = {"tensor": tensor, "dtype": dtype, "dims": dims}
            if scale := self.scale_of(info, dims):
                attrs["scale"] = scale
            self.graph.add(Node(tensor, "weight", TensorType(dtype, dims), attrs))
        return tensor

    def scale_of(self, info: TensorInfo, dims: tuple[int, ...]) -> str | None:
        """The tensor that a weight is scaled by, if there is one. Raises UnsupportedModelError for a weight that kernels decode."""
        name = f"{info.name.removesuffix('.weight')}.scale"
        if info.name == _EMBEDDING or not info.name.endswith(".weight") or not self.model.has(name):
            return None
        if not info.format.is_decoded_when_bound:
            raise UnsupportedModelError(
                f"{self.model.path}: tensor {name!r} scales a weight of {info.format.name}, which is not supported; expected one of NVFP4"
            )
        count = dims[0] if len(dims) == _EXPERT_DIMS else 1
        self.model.tensor(name, (count,))
        return name

    def biases(self, *wanted: tuple[str, int]) -> list[str]:
        """The biases ``(tensor, length)``: all of them, or none. Raises ModelError if only some are there."""
        there = [name for name, _ in wanted if self.model.has(name)]
        if not there:
            return []
        missing = [name for name, _ in wanted if name not in there]
        if missing:
            self.model.lacks(missing, there[0])
        return [self.weight(name, length) for name, length in wanted]

    # -- the model ------------------------------------------------------------------------------------------------------

    def build(self) -> Graph:
        hp = self.hp
        vocabulary = self.model.vocabulary
        self.op("input", "tokens")
        self.op("input", "positions")
        table = self.weight(_EMBEDDING, vocabulary, hp.hidden)
        factors = self.rope_factors()
        angles = {sliding: self.rope_angles(sliding, factors) for sliding in dict.fromkeys((False, True) if hp.window else (False,))}
        x = self.staged("embed", 0, "embedding", "tokens", table, scale=hp.embedding_scale)
        for layer in range(hp.layers):
            x = self.attention_block(layer, x, angles[hp.sliding[layer]])
            x = self.expert_block(layer, x) if hp.experts else self.ffn_block(layer, x)
        x = self.staged("rms_norm", None, "final_norm", x, self.weight("output_norm.weight", hp.hidden), eps=hp.eps, groups=1)
        last = self.op("last_row", "last_position", x)
        head = self.weight("output.weight", vocabulary, hp.hidden) if self.model.has("output.weight") else table
        self.graph.outputs = (self.staged("linear", None, "lm_head", last, head),)
        self.refuse_unused()
        return self.graph

    def refuse_unused(self) -> None:
        """Raise UnsupportedModelError if the file has a tensor that no node uses and that may not be left out, or the reverse."""
        left_out = {name for group in self.model.left_out for name in group.names}
        used = {str(name): node for node in self.graph.with_op("weight") for name in (node.name, node.attrs.get("scale")) if name}
        needed = next((name for name in used if name in left_out), None)
        if needed is not None:
            user = self.graph.users(used[needed].name)[0]
            raise UnsupportedModelError(
                f"{self.model.path}: --ignore leaves out the tensor {needed!r}, which %{user.name} needs; expected a pattern of tensors "
                "that nothing uses"
            )
        unused = [name for name in self.model.file.tensors if name not in used and name not in left_out]
        if unused:
            others = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
            raise UnsupportedModelError(
                f"{self.model.path}: tensor {unused[0]!r}{others} has no place in a {self.model.family.architecture!r} model of "
                f"{self.hp.layers} layers; expected a file all of whose tensors are used, for without them the numbers would be wrong; if "
                f"yours does without, leave them out with --ignore REGEX, such as --ignore '{pattern_of(unused[0])}'"
            )

    # -- RoPE -----------------------------------------------------------------------------------------------------------

    def rope_factors(self) -> list[str]:
        """What each frequency is divided by: Llama 3.1's factors, LongRoPE's two sets, or nothing."""
        count = self.hp.rope.dims // 2
        if self.model.has("rope_freqs.weight"):
            return [self.weight("rope_freqs.weight", count)]
        names = ("rope_factors_short.weight", "rope_factors_long.weight")
        there = [name for name in names if self.model.has(name)]
        if not there:
            return []
        short, long = (self.weight(name, count) for name in names)
        return [self.op("context_choice", "rope_factors", short, long, limit=self.hp.original_context)]

    def rope_angles(self, sliding: bool, factors: list[str]) -> str:
        hp = self.hp
        if sliding and hp.sliding_rope == hp.rope:
            return "rope_angles"
        rope, name = (hp.sliding_rope, "rope_angles_sliding") if sliding else (hp.rope, "rope_angles")
        start, end = rope.ramp
        return self.op(
            "rope_angles", name, "positions", *([] if sliding else factors),
            base=rope.base, dims=rope.dims, scale=rope.scale, ramp_start=start, ramp_end=end, magnitude=rope.magnitude,
        )  # fmt: skip

    # -- attention ------------------------------------------------------------------------------------------------------

    def norm(self, layer: int, stage: str, x: str, weight: str) -> str:
        """An RMSNorm of whole rows."""
        return self.staged("rms_norm", layer, stage, x, self.weight(weight, self.hp.hidden), eps=self.hp.eps, groups=1)

    def projection(self, layer: int, stage: str, x: str, weight: str, bias: str, rows: int, columns: int) -> str:
        """A projection with its optional bias; the stage is the value after the bias."""
        w = self.weight(weight, rows, columns)
        biases = self.biases((bias, rows))
        if not biases:
            return self.staged("linear", layer, stage, x, w)
        product = self.op("linear", f"layer{layer}.{stage}_matmul", x, w, layer=layer)
        return self.staged("bias_add", layer, stage, product, *biases)

    def qkv(self, layer: int, x: str) -> str:
        """q, k and v side by side, after their biases if there are any."""
        hp, prefix = self.hp, f"blk.{layer}.attn"
        q_rows, kv_rows = hp.heads[layer] * hp.head_size, hp.kv_heads[layer] * hp.head_size
        parts = [("q", q_rows), ("k", kv_rows), ("v", kv_rows)]
        if self.model.has(f"{prefix}_qkv.weight"):
            parts = [("qkv", sum(rows for _, rows in parts))]
        weights = [self.weight(f"{prefix}_{part}.weight", rows, hp.hidden) for part, rows in parts]
        qkv = self.staged("linear", layer, "qkv_matmul", x, *weights)
        biases = self.biases(*((f"{prefix}_{part}.bias", rows) for part, rows in parts))
        if self.model.family.qkv_bias and not biases:
            self.model.tensor(f"{prefix}_{parts[0][0]}.bias", (parts[0][1],))  # raises: it is missing
        return self.staged("bias_add", layer, "qkv_bias", qkv, *biases) if biases else qkv

    def rotated(self, layer: int, part: str, qkv: str, angles: str, heads: int, start: int) -> str:
        """q or k after RoPE, and before it after its norm where the family has one."""
        hp, family = self.hp, self.model.family
        columns = heads * hp.head_size
        if family.qk_norm:
            x = self.op("columns", f"layer{layer}.{part}", qkv, layer=layer, start=start, stop=start + columns)
            weight = self.weight(f"blk.{layer}.attn_{part}_norm.weight", hp.head_size)
            qkv, start = self.staged("rms_norm", layer, f"{part}_norm", x, weight, eps=hp.eps, groups=heads), 0
        return self.staged(
            "rope", layer, f"{part}_post_rope", qkv, angles,
            heads=heads, head_size=hp.head_size, start=start, pairing=family.rope_pairing,
        )  # fmt: skip

    def attention_block(self, layer: int, x: str, angles: str) -> str:
        hp, heads, kv_heads = self.hp, self.hp.heads[layer], self.hp.kv_heads[layer]
        q_columns, kv_columns = heads * hp.head_size, kv_heads * hp.head_size
        prefix = f"blk.{layer}.attn"
        # What masks scores, softmax and mix alike.
        mask: dict[str, Attr] = {"window": hp.window if hp.sliding[layer] else 0, "causal": hp.causal}
        qkv = self.qkv(layer, self.norm(layer, "attn_norm", x, f"{prefix}_norm.weight"))
        q = self.rotated(layer, "q", qkv, angles, heads, 0)
        k = self.rotated(layer, "k", qkv, angles, kv_heads, q_columns)
        v = self.op("columns", f"layer{layer}.v", qkv, layer=layer, start=q_columns + kv_columns, stop=q_columns + 2 * kv_columns)
        keys, values = (self.op("cache", f"layer{layer}.{name}_cache", part, layer=layer) for name, part in (("k", k), ("v", v)))
        scores = self.staged("attn_scores", layer, "attn_scores", q, keys, heads=heads, kv_heads=kv_heads, scale=hp.scale, **mask)
        softmax = self.staged("attn_softmax", layer, "attn_softmax", scores, **mask)
        mixed = self.staged("attn_mix", layer, "attention", softmax, values, kv_heads=kv_heads, **mask)
        out = self.projection(layer, "attn_out", mixed, f"{prefix}_output.weight", f"{prefix}_output.bias", hp.hidden, q_columns)
        if self.model.family.post_norms:
            out = self.norm(layer, "attn_post_norm", out, f"blk.{layer}.post_attention_norm.weight")
        return self.staged("add", layer, "post_attn_residual", x, out)

    # -- feed-forward networks ------------------------------------------------------------------------------------------

    def ffn_block(self, layer: int, x: str) -> str:
        norm = self.norm(layer, "ffn_norm", x, f"blk.{layer}.ffn_norm.weight")
        out = self.fused_ffn(layer, norm) if self.model.family.fused_gate_up else self.ffn(layer, norm, "", self.hp.ffn[layer])
        if self.model.family.post_norms:
            out = self.norm(layer, "ffn_post_norm", out, f"blk.{layer}.post_ffw_norm.weight")
        return self.staged("add", layer, "post_ffn_residual", x, out)

    def ffn(self, layer: int, x: str, suffix: str, columns: int) -> str:
        """A gated network (Shazeer 2020, arXiv:2002.05202) of ``columns`` columns; ``suffix`` ends its tensors' names."""
        prefix, hidden = f"blk.{layer}.ffn", self.hp.hidden
        gate, up = (
            self.projection(layer, f"ffn_{part}", x, f"{prefix}_{part}{suffix}.weight", f"{prefix}_{part}{suffix}.bias", columns, hidden)
            for part in ("gate", "up")
        )
        return self.down(layer, gate, up, f"{prefix}_down{suffix}", columns)

    def fused_ffn(self, layer: int, x: str) -> str:
        """The same where ffn_up holds the gate's rows first, then its own."""
        columns, prefix = self.hp.ffn[layer], f"blk.{layer}.ffn"
        both = self.op(
            "linear", f"layer{layer}.ffn_gate_up", x, self.weight(f"{prefix}_up.weight", 2 * columns, self.hp.hidden), layer=layer
        )
        gate = self.staged("columns", layer, "ffn_gate", both, start=0, stop=columns)
        up = self.staged("columns", layer, "ffn_up", both, start=columns, stop=2 * columns)
        return self.down(layer, gate, up, f"{prefix}_down", columns)

    def down(self, layer: int, gate: str, up: str, tensor: str, columns: int) -> str:
        activated = self.staged(self.model.family.activation, layer, "ffn_silu", gate)
        product = self.staged("mul", layer, "ffn_swigl", activated, up)
        return self.projection(layer, "ffn_out", product, f"{tensor}.weight", f"{tensor}.bias", self.hp.hidden, columns)

    def expert_block(self, layer: int, x: str) -> str:
        experts, hidden = self.hp.experts, self.hp.hidden
        assert experts is not None
        prefix = f"blk.{layer}.ffn"
        norm = self.norm(layer, "ffn_norm", x, f"{prefix}_norm.weight")
        shared = self.shared_expert(layer, norm) if experts.shared_ffn else None
        scores = self.staged("linear", layer, "moe_router_logits", norm, self.weight(f"{prefix}_gate_inp.weight", experts.count, hidden))
        # Ids before weights: the weights are of the experts that were chosen.
        ids = self.staged("top_k", layer, "moe_router_indices", scores, k=experts.used)
        weights = self.staged("router_weights", layer, "moe_router", scores, ids, normalise=experts.normalise, scale=experts.scale)

        def inside(part: str, operand: str, rows: int, columns: int) -> str:
            weight = self.weight(f"{prefix}_{part}_exps.weight", experts.count, rows, columns)
            return self.staged("expert_linear", layer, f"moe_expert_{'out' if part == 'down' else part}", operand, ids, weight)

        gate, up = inside("gate", norm, experts.ffn, hidden), inside("up", norm, experts.ffn, hidden)
        activated = self.op(self.model.family.activation, f"layer{layer}.moe_expert_activated", gate, layer=layer)
        product = self.staged("mul", layer, "moe_expert_swigl", activated, up)
        outputs = inside("down", product, hidden, experts.ffn)
        if shared is None:
            out = self.staged("expert_sum", layer, "moe_ffn_out", outputs, weights)
        else:
            total = self.op("expert_sum", f"layer{layer}.moe_expert_sum", outputs, weights, layer=layer)
            out = self.staged("add", layer, "moe_ffn_out", total, shared)
        return self.staged("add", layer, "post_ffn_residual", x, out)

    def shared_expert(self, layer: int, x: str) -> str:
        """The expert that every position uses: a dense network, whose stages are the dense ones, times a sigmoid of its own gate."""
        assert self.hp.experts is not None
        out = self.ffn(layer, x, "_shexp", self.hp.experts.shared_ffn)
        name = f"blk.{layer}.ffn_gate_inp_shexp.weight"
        dims = (self.hp.hidden,) if self.model.has(name) and len(self.model.tensor(name).dims) == 1 else (1, self.hp.hidden)
        logit = self.op("linear", f"layer{layer}.shared_gate_logit", x, self.weight(name, *dims), layer=layer)
        gate = self.op("sigmoid", f"layer{layer}.shared_gate", logit, layer=layer)
        return self.op("scale_rows", f"layer{layer}.shared_expert", out, gate, layer=layer)
