"""The ops, each declared once. ``OPS`` is the table that the verifier, the interpreter and the kernels go by."""

from __future__ import annotations

from collections.abc import Mapping

from aprgraph.graph.ir import Attr, Node
from aprgraph.graph.ops.attention import ATTENTION, ATTN_MIX, ATTN_SCORES, ATTN_SOFTMAX
from aprgraph.graph.ops.base import Array, Op
from aprgraph.graph.ops.cache import CACHE
from aprgraph.graph.ops.elementwise import ADD, GELU, MUL, SCALE_ROWS, SIGMOID, SILU
from aprgraph.graph.ops.experts import EXPERT_LINEAR, EXPERT_SUM, ROUTER_WEIGHTS, TOP_K
from aprgraph.graph.ops.linear import BIAS_ADD, LINEAR
from aprgraph.graph.ops.lookup import COLUMNS, EMBED, LAST_ROW
from aprgraph.graph.ops.normalization import RMS_NORM
from aprgraph.graph.ops.rope import CONTEXT_CHOICE, ROPE, ROPE_ANGLES
from aprgraph.graph.ops.sources import INPUT, RECORDED, WEIGHT
from aprgraph.graph.ops.tap import TAP

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        INPUT, WEIGHT, RECORDED, EMBED, COLUMNS, LAST_ROW, LINEAR, BIAS_ADD, RMS_NORM, CONTEXT_CHOICE, ROPE_ANGLES, ROPE, CACHE,
        ATTN_SCORES, ATTN_SOFTMAX, ATTN_MIX, ATTENTION, ADD, MUL, SILU, GELU, SIGMOID, SCALE_ROWS,
        TOP_K, ROUTER_WEIGHTS, EXPERT_LINEAR, EXPERT_SUM, TAP,
    )
}  # fmt: skip


def complete_attrs(node: Node) -> Mapping[str, Attr]:
    """The attributes of a node, with the defaults of those that its graph leaves out."""
    return {**(OPS[node.op].defaults if node.op in OPS else {}), **node.attrs}


__all__ = ["OPS", "Array", "Op", "complete_attrs"]
