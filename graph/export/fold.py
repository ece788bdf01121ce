"""Which neighbouring layers are equal, so that a picture may draw them once.

Two layers are equal if their nodes agree one by one in op, stage, attributes, type, taps, and operands: weights by their
format, dims and tensor name, all up to the layer's number. What a layer takes from the one before it must come from the
same place in every layer of a run but the first, which has the embedding, or a layer of another kind, before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aprgraph.graph.export.divergence import Colouring, divergence_of
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import is_weight
from aprgraph.graph.stages import STAGE_BY_NAME


def drawn_layer(node: Node) -> int | None:
    """The layer whose cluster ``node`` is drawn in. The embedding stands before all layers, though plans call it layer 0's."""
    stage = STAGE_BY_NAME.get(node.stage or "")
    return None if stage is not None and stage.first_layer_only else node.layer


def local_name(node: Node) -> str:
    """What a box is called: its stage, or its name without the layer."""
    return node.stage or node.name.removeprefix(f"layer{node.layer}.")


def tensor_pattern(tensor: str, layer: int | None) -> str:
    """``blk.3.attn_q.weight`` of layer 3 as ``blk.{layer}.attn_q.weight``."""
    return tensor if layer is None else re.sub(rf"(?<=\.){layer}(?=\.)", "{layer}", tensor)


@dataclass(frozen=True)
class _Signature:
    """``body`` is equal in equal layers; ``carried`` says where operands from outside come from: (layers back, position)."""

    body: tuple[Any, ...]
    carried: tuple[tuple[int, int] | None, ...]


def _signatures(graph: Graph, layers: Mapping[int, Sequence[Node]], tapped: set[str]) -> dict[int, _Signature]:
    place = {node.name: (layer, index) for layer, nodes in layers.items() for index, node in enumerate(nodes)}
    result: dict[int, _Signature] = {}
    for layer, nodes in layers.items():
        body: list[Any] = []
        carried: dict[str, tuple[int, int] | None] = {}
        for node in nodes:
            operands: list[Any] = []
            for operand in graph.operands(node.name):
                if is_weight(operand):
                    operands.append((operand.type, tensor_pattern(str(operand.attrs.get("tensor", operand.name)), layer)))
                elif operand.name not in place and operand.layer is None:
                    operands.append(operand.name)
                else:
                    there, index = place.get(operand.name, (None, 0))
                    if there == layer:
                        operands.append(index)
                    else:
                        carried.setdefault(operand.name, None if there is None else (layer - there, index))
                        operands.append(("carried", list(carried).index(operand.name)))
            attrs = tuple(sorted(node.attrs.items()))
            body.append((node.op, node.stage, local_name(node), attrs, node.type, node.name in tapped, tuple(operands)))
        result[layer] = _Signature(tuple(body), tuple(carried.values()))
    return result


def equal_runs(
    graph: Graph,
    layers: Mapping[int, Sequence[Node]],
    tapped: set[str],
    colouring: Colouring | None = None,
    suspects: frozenset[str] = frozenset(),
) -> list[range]:
    """The runs of equal layers, in order; a layer that equals neither neighbour is a run of one.

    ``layers`` gives the drawn nodes of each layer in execution order; ``tapped`` the names of nodes that a tap reads.
    Layers whose colours tell different stories (a divergence begins in one of them, or one was not measured, or one has a
    suspect) stay apart.
    """
    signatures = _signatures(graph, layers, tapped)

    def has_suspect(node: Node) -> bool:
        operands = [str(operand.attrs.get("tensor", operand.name)) for operand in graph.operands(node.name) if is_weight(operand)]
        return not suspects.isdisjoint((node.name, *operands))

    def colours(layer: int) -> tuple[str | bool | None, ...]:
        marks = tuple(has_suspect(node) for node in layers[layer]) if suspects else ()
        if colouring is None:
            return marks
        classes = [divergence_of(colouring, layer, node.stage).cls if node.stage else None for node in layers[layer]]
        return (*marks, *(cls.name if cls is not None and cls.stands_apart else None for cls in classes))

    runs: list[range] = []
    for layer in sorted(layers):
        before = runs[-1] if runs else range(0)
        if len(before) and before.stop == layer:
            mine, last = signatures[layer], signatures[layer - 1]
            from_last = all(source is not None and source[0] == 1 for source in mine.carried)
            same_sources = len(before) == 1 or mine.carried == last.carried
            if mine.body == last.body and from_last and same_sources and colours(layer) == colours(layer - 1):
                runs[-1] = range(before.start, layer + 1)
                continue
        runs.append(range(layer, layer + 1))
    return runs
