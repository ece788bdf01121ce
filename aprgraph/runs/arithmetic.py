"""The arithmetic of a run: whether its kernels round so, and what the manifest and its reader are told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprgraph.graph.arguments import ARITHMETIC
from aprgraph.graph.arithmetics import parse_arithmetic
from aprgraph.graph.errors import PlanError
from aprgraph.graph.ir import Graph
from aprgraph.graph.passes.apply_arithmetic import OF_GRAPH, precisions_of
from aprgraph.runtime.trace.manifest import ARITHMETICS, ENGINE_ARITHMETIC

if TYPE_CHECKING:
    from aprgraph.codegen.artifact import Artifact

_FLOAT32 = "float32"


def arithmetic_of_run(asked: str | None, artifact: Artifact) -> str:
    """The arithmetic of a run: the one that is asked for, or that of the artifact.

    Raises PlanError for another one than its kernels were compiled for, and GraphError for one that there is not. The reference
    target has no kernels, so there any will do.
    """
    if asked is None:
        return artifact.arithmetic
    found = parse_arithmetic(asked)
    if found.text != artifact.arithmetic and artifact.target != "reference":
        raise PlanError(
            ARITHMETIC.given(asked, repr(asked)),
            f": {artifact.directory} was compiled for the arithmetic {artifact.arithmetic}, and its kernels round as that does; leave it "
            "out, or compile the model with ",
            ARITHMETIC.given(found.text, repr(found.text)),
        )
    return found.text


def arithmetic_notes(arithmetic: str) -> tuple[str, ...]:
    """What whoever reads a run's numbers should know of its arithmetic, in sentences."""
    found = parse_arithmetic(arithmetic)
    return () if found.was_run else (f"the arithmetic {found.name} was read in the engine's source, and not tried against it",)


def arithmetic_notices(graph: Graph) -> tuple[str, ...]:
    """What whoever starts a run of ``graph`` should know of its arithmetic, in sentences."""
    if OF_GRAPH not in graph.attrs:
        return ()
    found = parse_arithmetic(str(graph.attrs[OF_GRAPH]))
    return (f"computed in the arithmetic {found.text} ({found.summary})",)


def described_arithmetic(graph: Graph) -> dict[str, str]:
    """For the manifest of a run of ``graph``: how coarse the arithmetic is that the graph is in, and its name. Empty for none."""
    if OF_GRAPH not in graph.attrs:
        return {}
    coarsest = max(precisions_of(graph), key=ARITHMETICS.index, default=_FLOAT32)
    return {"arithmetic": coarsest, ENGINE_ARITHMETIC: str(graph.attrs[OF_GRAPH])}
