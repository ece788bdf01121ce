"""The verifier: a graph that passes it obeys every rule of its ops. Runs after building, parsing, and every pass."""

from __future__ import annotations

from collections.abc import Sequence

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import OPS, Op, is_tap, is_weight
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.text import print_node


def verify(graph: Graph, earlier: Graph | None = None) -> None:
    """Raise GraphError, showing the node and what it uses, unless every node is well-formed.

    A graph that has been verified and not changed since is not looked at again, nor are its nodes in another graph if
    that is given it as ``earlier``.
    """
    if not graph.verified:
        good = graph.unchanged_from(earlier) if earlier is not None and earlier.verified else set()
        staged: dict[tuple[bool, int | None, str], str] = {}
        for node in graph:
            _verify_in_context(graph, node, staged, good)
        graph.verified = True
    for name in graph.outputs:
        if name not in graph:
            raise GraphError(f"graph @{graph.name}: returns %{name}, which is not in it")


def _verify_in_context(graph: Graph, node: Node, staged: dict[tuple[bool, int | None, str], str], good: set[str]) -> None:
    """Verify one node; the error shows it. ``staged`` maps (is a tap, layer, stage) to the node that has been seen there.

    The nodes named ``good`` have been verified.
    """
    try:
        if node.name not in good:
            _verify_node(graph, node)
        _verify_unique(node, staged)
    except GraphError as error:
        operands = "".join(f"\n    {print_node(graph, operand)}" for operand in graph.operands(node.name)) or " none"
        shown_node = print_node(graph, node)
        raise GraphError(f"graph @{graph.name}: {error}\n  at  {shown_node}\n  with operands:{operands}") from None


def _verify_unique(node: Node, staged: dict[tuple[bool, int | None, str], str]) -> None:
    if node.stage is None:
        return
    first = staged.setdefault((is_tap(node), node.layer, node.stage), node.name)
    if first != node.name:
        where = node.stage if node.layer is None else f"{node.stage} of layer {node.layer}"
        raise GraphError(f"stage {where} is already {'tapped by ' if is_tap(node) else ''}%{first}")


def _verify_weights(op: Op, operands: Sequence[Node]) -> None:
    for name, operand in zip(op.operands_named(len(operands)), operands, strict=True):
        if name in op.traits.weights and not (is_weight(operand) or _gives_weights(OPS[operand.op])):
            raise GraphError(f"{op.name} takes a weight as {name}, but %{operand.name} is the result of {operand.op}")


def _gives_weights(op: Op) -> bool:
    """Whether the op takes weights alone, of which it gives one."""
    return bool(op.operands) and set(op.operands_named(len(op.operands))) <= set(op.traits.weights)


def _verify_node(graph: Graph, node: Node) -> None:
    op = OPS.get(node.op)
    if op is None:
        raise GraphError(f"unknown op {node.op!r}; expected one of {', '.join(OPS)}; if a family's file brought it, give that file as well")
    operands = graph.operands(node.name)
    op.check(node, tuple(operand.type for operand in operands))
    _verify_weights(op, operands)
    for operand in operands:
        if is_tap(operand):
            raise GraphError(f"%{operand.name} is a tap, and nothing may read a tap: use %{graph.operand_names(operand.name)[0]}")
    if is_tap(node) and (node.stage, node.layer) != (operands[0].stage, operands[0].layer):
        raise GraphError(f"a tap has the stage and the layer of what it saves: {operands[0].stage} of layer {operands[0].layer}")
    if node.stage is None:
        if is_tap(node):
            raise GraphError("a tap has no stage")
        return
    stage = STAGE_BY_NAME.get(node.stage)
    if stage is None:
        raise GraphError(f"unknown stage {node.stage!r}")
    if (node.layer is None) == stage.per_layer:
        raise GraphError(f"stage {node.stage} {'needs a' if stage.per_layer else 'has no'} layer")
    if stage.first_layer_only and node.layer != 0:
        raise GraphError(f"stage {node.stage} belongs to layer 0 alone, not to layer {node.layer}")
