"""fuse-attention: scores, softmax and mix in one op, where neither scores nor softmax are tapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops.attention import is_causal


def _mask(node: Node) -> tuple[int, bool]:
    return node.attr_int("window"), is_causal(node.attrs)


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
        # By name: these three ops are the pattern that the pass is for.
        for mix in graph.with_op("attn_mix"):
            softmax, v = graph.operands(mix.name)
            if softmax.op != "attn_softmax" or not self._private(graph, softmax):
                continue
            scores, *sinks = graph.operands(softmax.name)
            if scores.op != "attn_scores" or not self._private(graph, scores) or not _mask(scores) == _mask(softmax) == _mask(mix):
                continue
            attrs = {**scores.attrs, **{name: value for name, value in mix.attrs.items() if name not in scores.attrs}}
            node = Node(mix.name, "attention", mix.type, attrs, mix.stage, mix.layer)
            fused[mix.name] = (node, (*graph.operand_names(scores.name), v.name, *(sink.name for sink in sinks)))
            gone |= {softmax.name, scores.name}
        result = Graph(graph.name, graph.attrs)
        for node in graph:
            if node.name not in gone:
                result.add(*fused.get(node.name, (node, graph.operand_names(node.name))))
        result.outputs = graph.outputs
        return result

    @staticmethod
    def _private(graph: Graph, node: Node) -> bool:
        return len(graph.users(node.name)) == 1 and node.name not in graph.outputs
