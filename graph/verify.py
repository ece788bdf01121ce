"""The verifier: a graph that passes it obeys every rule of its ops. Runs after building, parsing, and every pass."""

from __future__ import annotations

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import OPS
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.text import print_node


def verify(graph: Graph) -> None:
    """Raise GraphError, showing the node and what it uses, unless every node is well-formed."""
    measured: dict[tuple[int | None, str], str] = {}
    for node in graph:
        try:
            _verify_node(graph, node)
            if node.stage is not None and node.op != "tap":
                first = measured.setdefault((node.layer, node.stage), node.name)
                if first != node.name:
                    raise GraphError(f"stage {node.stage} of layer {node.layer} is already %{first}")
        except GraphError as error:
            context = "".join(f"\n    {print_node(graph, operand)}" for operand in graph.operands(node.name))
            raise GraphError(f"graph @{graph.name}: {error}\n  at  {print_node(graph, node)}\n  with operands:{context or ' none'}") from None
    for name in graph.outputs:
        if name not in graph:
            raise GraphError(f"graph @{graph.name}: returns %{name}, which is not in it")


def _verify_node(graph: Graph, node: Node) -> None:
    op = OPS.get(node.op)
    if op is None:
        raise GraphError(f"unknown op {node.op!r}; expected one of {', '.join(OPS)}")
    op.check(node, [operand.type for operand in graph.operands(node.name)])
    if node.stage is None:
        if node.op == "tap":
            raise GraphError("a tap has no stage")
        return
    stage = STAGE_BY_NAME.get(node.stage)
    if stage is None:
        raise GraphError(f"unknown stage {node.stage!r}")
    if (node.layer is None) == stage.per_layer:
        raise GraphError(f"stage {node.stage} {'needs' if stage.per_layer else 'has no'} layer")
