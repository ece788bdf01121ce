"""What has to be known of a tensor to read it otherwise: its finest axes, its heads, its mask, its scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import ATTN_SOFTMAX, mask_of, scores_by_layer
from aprgraph.graph.ops.lookup import EMBED
from aprgraph.graph.stages import STAGE_BY_NAME, StageKind, is_logits

_Q_COLUMNS, _K_COLUMNS, _QKV_COLUMNS = "H*D", "K*D", "(H+2K)*D"


@dataclass(frozen=True)
class Layout:
    """``axes`` are the finest axes of the stage's shape, such as (("n", 8), ("H", 4), ("D", 16)) of 8 x 64, outermost first.

    ``mask`` is bool [n, t] where places are masked, of scores or of their softmax (``is_softmax``). ``scale`` is what the stage's values
    were multiplied by, where that is a number of the model's. Of logits (``is_logits``) the last axis is the vocabulary. ``heads`` are the
    numbers of heads whose rows of ``head_size`` elements RoPE turns, group after group: (H,) of q, (H, K) at the front of q, k and v
    side by side; empty elsewhere.
    """

    axes: tuple[tuple[str, int], ...]
    mask: Array | None = None
    is_softmax: bool = False
    scale: float | None = None
    is_logits: bool = False
    heads: tuple[int, ...] = ()
    kv_heads: int = 0
    head_size: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(size for _, size in self.axes)


def is_turned(stage: str) -> bool:
    """Whether a stage holds rows of q or k, which RoPE turns or has turned; a mix of v is not turned."""
    known = STAGE_BY_NAME.get(stage)
    if known is None or known.dims[-1] not in (_Q_COLUMNS, _K_COLUMNS, _QKV_COLUMNS):
        return False
    turned = {one.name for one in STAGE_BY_NAME.values() if one.kind is StageKind.ROPE}
    for one in reversed(STAGE_BY_NAME.values()):  # what it reads comes before it
        turned.update(one.reads if one.name in turned else ())
    return stage in turned


def hidden_by_mask(graph: Graph, node: Node, shape: tuple[int, ...]) -> Array | None:
    """bool [n, t]: what the mask hides of scores, or of their softmax, [H, n, t]; None of other stages."""
    scores = scores_by_layer(graph).get(node.layer)
    is_masked = scores is not None and (node.name == scores.name or node.op == ATTN_SOFTMAX.name)
    return ~mask_of(shape[1], shape[2], node.attrs) if is_masked else None


def layout_of(graph: Graph, node: Node, shape: tuple[int, ...]) -> Layout:
    """The layout of the stage ``node`` of a graph, bound to ``shape``."""
    stage = STAGE_BY_NAME.get(node.stage or "")
    letters = stage.dims if stage is not None and len(stage.dims) == len(shape) else tuple(f"axis {i}" for i in range(len(shape)))
    plain = tuple(zip(letters, shape, strict=True))
    scores = scores_by_layer(graph).get(node.layer)
    if node.op == EMBED.name:  # by name: its scale is an attribute of this op
        return Layout(plain, scale=node.attr_float("scale"))
    if is_logits(node.stage):
        return Layout(plain, is_logits=True)
    if scores is None or stage is None:
        return Layout(plain)
    heads, kv_heads = scores.attr_int("heads"), scores.attr_int("kv_heads")
    if (hidden := hidden_by_mask(graph, node, shape)) is not None:
        is_softmax = node.name != scores.name
        scale = None if is_softmax else scores.attr_float("scale")
        return Layout(plain, mask=~hidden if hidden.any() else None, is_softmax=is_softmax, scale=scale)
    if letters[-1] not in (_Q_COLUMNS, _K_COLUMNS, _QKV_COLUMNS):
        return Layout(plain)
    if letters[-1] == _QKV_COLUMNS:
        columns = graph.operands(scores.name)[0].type.dims[1]
        assert isinstance(columns, int)
        size = columns // heads
        if shape[-1] == heads * size:  # q alone
            return Layout(plain, heads=(heads,), head_size=size)
        return Layout(plain, heads=(heads, kv_heads), kv_heads=kv_heads, head_size=size)
    letter, count = ("H", heads) if letters[-1] == _Q_COLUMNS else ("K", kv_heads)
    turned = (count,) if is_turned(stage.name) else ()
    size = shape[-1] // count
    assert count * size == shape[-1] == math.prod(shape[1:])
    return Layout((*plain[:-1], (letter, count), ("D", size)), heads=turned, kv_heads=kv_heads, head_size=size)
