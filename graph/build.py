"""From a model to its graph: the decoder-only transformer, resolved against the tensors that the file has."""

from __future__ import annotations

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from aprgraph.graph.ir import Attr, Graph, Node, TensorType
from aprgraph.graph.model import Model
from aprgraph.graph.ops import OPS
from aprgraph.graph.verify import verify


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
        """Add one op; its type is inferred. Returns the node's name."""
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
            attrs: dict[str, Attr] = {"tensor": tensor, "dtype": dtype, "dims": info.dims}
            self.graph.add(Node(tensor, "weight", TensorType(dtype, info.dims), attrs))
        return tensor

    def biases(self, *wanted: tuple[str, int]) -> list[str]:
        """The biases ``(tensor, length)``: all of them, or none. Raises ModelError if only some are there."""
        there = [name for name, _ in wanted if self.model.has(name)]
        if not there:
            return []
        missing = [name for name, _ in wanted if name not in there]
        if missing:
            raise ModelError(f"{self.model.path}: tensor {there[0]!r} is there, but {', '.join(map(repr, missing))} is missing")
        return [self.weight(name, length) for name, length in wanted]

    # -- the model ------------------------------------------------------------------------------------------------------

    def build(self) -> Graph:
        hp = self.hp
        vocabulary = self.model.vocabulary
        self.op("input", "tokens")
        self.op("input", "positions")
        table = self.weight("token_embd.weight", vocabulary, hp.hidden)
        factors = [self.weight("rope_freqs.weight", hp.rope_dims // 2)] if self.model.has("rope_freqs.weight") else []
        angles = self.op("rope_angles", "rope_angles", "positions", *factors, base=hp.rope_base, dims=hp.rope_dims, scale=hp.rope_scale)
        x = self.staged("embed", 0, "embedding", "tokens", table, scale=1.0)
        for layer in range(hp.layers):
            x = self.attention_block(layer, x, angles)
            x = self.ffn_block(layer, x)
        x = self.staged("rms_norm", None, "final_norm", x, self.weight("output_norm.weight", hp.hidden), eps=hp.eps, groups=1)
        last = self.op("last_row", "last_position", x)
        head = self.weight("output.weight", vocabulary, hp.hidden) if self.model.has("output.weight") else table
        self.graph.outputs = (self.staged("linear", None, "lm_head", last, head),)
        self.refuse_unused()
        return self.graph

    def refuse_unused(self) -> None:
        """Raise UnsupportedModelError if the file has a tensor that no node uses."""
        unused = [name for name in self.model.file.tensors if name not in self.graph]
        if unused:
            others = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
            raise UnsupportedModelError(
                f"{self.model.path}: tensor {unused[0]!r}{others} has no place in a {self.model.family.architecture!r} model of "
                f"{self.hp.layers} layers; expected a file all of whose tensors are used, for without them the numbers would be wrong"
            )

    def projection(self, layer: int, stage: str, x: str, weight: str, bias: str, rows: int, columns: int) -> str:
        """A projection with its optional bias; the stage is the value after the bias."""
        w = self.weight(weight, rows, columns)
        biases = self.biases((bias, rows))
        if not biases:
            return self.staged("linear", layer, stage, x, w)
        product = self.op("linear", f"layer{layer}.{stage}_matmul", x, w, layer=layer)
        return self.staged("bias_add", layer, stage, product, *biases)

    def attention_block(self, layer: int, x: str, angles: str) -> str:
        hp = self.hp
        q_columns, kv_columns = hp.heads * hp.head_size, hp.kv_heads * hp.head_size
        prefix = f"blk.{layer}.attn"
        norm = self.staged("rms_norm", layer, "attn_norm", x, self.weight(f"{prefix}_norm.weight", hp.hidden), eps=hp.eps, groups=1)
        parts = (("q", q_columns), ("k", kv_columns), ("v", kv_columns))
        weights = [self.weight(f"{prefix}_{part}.weight", rows, hp.hidden) for part, rows in parts]
        qkv = self.staged("linear", layer, "qkv_matmul", norm, *weights)
        biases = self.biases(*((f"{prefix}_{part}.bias", rows) for part, rows in parts))
        if biases:
            qkv = self.staged("bias_add", layer, "qkv_bias", qkv, *biases)
        pairing = self.model.family.rope_pairing
        q = self.staged("rope", layer, "q_post_rope", qkv, angles, heads=hp.heads, head_size=hp.head_size, start=0, pairing=pairing)
        k = self.staged(
            "rope", layer, "k_post_rope", qkv, angles, heads=hp.kv_heads, head_size=hp.head_size, start=q_columns, pairing=pairing
        )
        v = self.op("columns", f"layer{layer}.v", qkv, layer=layer, start=q_columns + kv_columns, stop=q_columns + 2 * kv_columns)
        scores = self.staged("attn_scores", layer, "attn_scores", q, k, heads=hp.heads, kv_heads=hp.kv_heads, scale=hp.scale)
        softmax = self.staged("attn_softmax", layer, "attn_softmax", scores)
        mixed = self.staged("attn_mix", layer, "attention", softmax, v, kv_heads=hp.kv_heads)
        out = self.projection(layer, "attn_out", mixed, f"{prefix}_output.weight", f"{prefix}_output.bias", hp.hidden, q_columns)
        return self.staged("add", layer, "post_attn_residual", x, out)

    def ffn_block(self, layer: int, x: str) -> str:
        hp = self.hp
        prefix = f"blk.{layer}.ffn"
        norm = self.staged("rms_norm", layer, "ffn_norm", x, self.weight(f"{prefix}_norm.weight", hp.hidden), eps=hp.eps, groups=1)
        gate = self.projection(layer, "ffn_gate", norm, f"{prefix}_gate.weight", f"{prefix}_gate.bias", hp.ffn, hp.hidden)
        up = self.projection(layer, "ffn_up", norm, f"{prefix}_up.weight", f"{prefix}_up.bias", hp.ffn, hp.hidden)
        activated = self.staged("silu", layer, "ffn_silu", gate)
        product = self.staged("mul", layer, "ffn_swigl", activated, up)
        out = self.projection(layer, "ffn_out", product, f"{prefix}_down.weight", f"{prefix}_down.bias", hp.hidden, hp.ffn)
        return self.staged("add", layer, "post_ffn_residual", x, out)
