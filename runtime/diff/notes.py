"""What a reader of a comparison should know beside its numbers, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.experts import IDS
from aprgraph.runtime.diff.indices import ChoiceState, IndexMetrics
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.report import DiffRow
from aprgraph.runtime.diff.shapes import ShapedTrace
from aprgraph.runtime.trace import Trace

#: The largest number of tensors that a note names.
NAMED = 4


def differences(a: Trace, b: Trace) -> Iterator[str]:
    """What the manifests say about the two runs that differs, in sentences; such traces are comparable all the same."""
    for side, trace in (("A", a), ("B", b)):
        if trace.info is None:
            yield f"{side} has no manifest: its tokens are not known, and its shapes only where they are certain"
    if a.info is None or b.info is None:
        return
    fingerprints = [info.model.get("fingerprint") for info in (a.info, b.info)]
    if None not in fingerprints and fingerprints[0] != fingerprints[1]:
        yield "the traces are of different model files (their fingerprints differ)"
    if a.info.target != b.info.target:
        yield f"the targets differ: {a.info.target} in A, {b.info.target} in B"
    yield from _graph_differences(a, b)


def _graph_differences(a: Trace, b: Trace) -> Iterator[str]:
    """Nodes of one name that are computed in another way, at most four."""
    graph_a, graph_b = a.graph(), b.graph()
    if graph_a is None or graph_b is None:
        return
    found = 0
    for node in graph_a:
        if node.name not in graph_b or node.op == "tap":
            continue
        other = graph_b[node.name]
        changes = [
            f"{name} = {node.attrs.get(name)} in A, {other.attrs.get(name)} in B"
            for name in sorted({*node.attrs, *other.attrs})
            if node.attrs.get(name) != other.attrs.get(name)
        ]
        if node.op != other.op:
            changes.insert(0, f"{node.op} in A, {other.op} in B")
        elif graph_a.operand_names(node.name) != graph_b.operand_names(node.name):
            changes.append("it has other operands")
        if changes:
            found += 1
            if found > 4:
                yield "the graphs differ at further nodes"
                return
            yield f"the graphs differ at %{node.name}: {'; '.join(changes)}"
