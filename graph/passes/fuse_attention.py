"""fuse-attention: scores, softmax and mix in one op, where neither scores nor softmax are tapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Attr, Graph, Node, renamed
from aprgraph.graph.ops.attention import is_causal, is_chunked, is_symmetric


def _mask(node: Node) -> tuple[int, bool, bool, bool]:
    return node.attr_int("window"), is_causal(node.attrs), is_chunked(node.attrs), is_symmetric(node.attrs)


@dataclass(frozen=True)
class Attention:
    """An attention in three nodes. ``operands`` are q, k, v and perhaps sinks."""

    scores: Node
    softmax: Node
    mix: Node
    operands: tuple[str, ...]

    def as_one(self, op: str, **attrs: Attr) -> Node:
        """The node of an op that computes all of it, in place of the mix. ``attrs`` are those that it has besides."""
        return renamed(self.mix, op=op, attrs={**self.mix.attrs, **self.scores.attrs, **attrs})


def attentions_of(graph: Graph) -> list[Attention]:
    """The attentions of a graph whose three nodes mask alike, in execution order."""
    found = []
    # By name: these three ops are the pattern.
    for mix in graph.with_op("attn_mix"):
        softmax, v = graph.operands(mix.name)
        if softmax.op != "attn_softmax":
            continue
        scores, *sinks = graph.operands(softmax.name)
        if scores.op == "attn_scores" and _mask(scores) == _mask(softmax) == _mask(mix):
            operands = (*graph.operand_names(scores.name), v.name, *(sink.name for sink in sinks))
            found.append(Attention(scores, softmax, mix, operands))
    return found


@dataclass(frozen=True)
class FuseAttention:
    """Replaces attn_scores -> attn_softmax -> attn_mix by `attention` unless scores or softmax have another user or are outputs.

    The fused kernel emits the same rows as the three, so that no bit changes; what it saves is two buffers of [H, n, t],
    which grow with the square of the prompt.
    """

    name: ClassVar[str] = "fuse-attention"

    def __call__(self, graph: Graph) -> Graph:
        fused: dict[str, tuple[Node, tuple[str, ...]]] = {}
        gone: set[str] = set()
        for found in attentions_of(graph):
            if self._private(graph, found.scores) and self._private(graph, found.softmax):
                fused[found.mix.name] = found.as_one("attention"), found.operands
                gone |= {found.softmax.name, found.scores.name}
        result = Graph(graph.name, graph.attrs)
        for node in graph:
            if node.name not in gone:
                result.add(*fused.get(node.name, (node, graph.operand_names(node.name))))
        result.outputs = graph.outputs
        return result

    @staticmethod
    def _private(graph: Graph, node: Node) -> bool:
        return len(graph.users(node.name)) == 1 and node.name not in graph.outputs
