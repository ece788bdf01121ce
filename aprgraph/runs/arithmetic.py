"""The arithmetic of a run: whether its target has the kernels, and what the manifest says of it."""

from __future__ import annotations

from aprgraph.graph.arguments import ARITHMETIC, TARGET
from aprgraph.graph.arithmetics import parse_arithmetic
from aprgraph.graph.errors import PlanError
from aprgraph.graph.ir import Graph
from aprgraph.graph.passes.apply_arithmetic import OF_GRAPH, precisions_of
from aprgraph.runtime.trace.manifest import ARITHMETICS, ENGINE_ARITHMETIC

_FLOAT32 = "float32"


def check_arithmetic(arithmetic: str, target: str) -> None:
    """Raise PlanError for an arithmetic for which ``target`` has no kernels, and GraphError for one that there is not."""
    if not parse_arithmetic(arithmetic).is_exact and target != "reference":
        raise PlanError(
            ARITHMETIC.given(arithmetic, repr(arithmetic)),
            f": the target {target} has no kernels that round so; expected ",
            TARGET.given("reference", "'reference'"),
        )


def arithmetic_notes(arithmetic: str) -> tuple[str, ...]:
    """What whoever reads a run's numbers should know of its arithmetic, in sentences."""
    found = parse_arithmetic(arithmetic)
    return () if found.was_run else (f"the arithmetic {found.name} was read in the engine's source, and not tried against it",)


def described_arithmetic(graph: Graph) -> dict[str, str]:
    """For the manifest of a run of ``graph``: how coarse the arithmetic is that the graph is in, and its name. Empty for none."""
    if OF_GRAPH not in graph.attrs:
        return {}
    coarsest = max(precisions_of(graph), key=ARITHMETICS.index, default=_FLOAT32)
    return {"arithmetic": coarsest, ENGINE_ARITHMETIC: str(graph.attrs[OF_GRAPH])}
