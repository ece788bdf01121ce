"""The passes that ``aprgraph graph`` runs before it draws: which ones, what is printed between, and running them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aprgraph.graph.ir import Graph
    from aprgraph.graph.passes import Pass


def choose_passes(
    passes: str | None, taps: str | None, layers: str | None, stages: Callable[[], Collection[str]] | None = None
) -> list[Pass]:
    """The passes to run; those that name no taps or layers get those of --taps and --layers. Raises GraphError or PlanError.

    ``stages`` gives those of the model, for a message.
    """
    from aprgraph.graph.errors import PlanError  # noqa: PLC0415
    from aprgraph.graph.passes import InsertTaps, make_passes, split_passes  # noqa: PLC0415
    from aprgraph.graph.tap_plan import parse_plan  # noqa: PLC0415

    plan = parse_plan(taps or "all", layers or "0..1", stages)
    if passes is None:
        return [] if taps is None else [InsertTaps(plan)]
    if taps is not None:
        inserting = [options for name, options in split_passes(passes) if name == InsertTaps.name]
        if not inserting:
            raise PlanError(f"--taps {taps}: nothing inserts them; add insert-taps to --passes, or drop --passes")
        if any("taps" in options for options in inserting):
            raise PlanError(f"--taps {taps}: --passes names the taps of insert-taps already; drop one of the two")
    return make_passes(passes, plan, stages)


def check_print(print_ir_after: str, names: list[str]) -> None:
    """Raise GraphError where --print-ir-after names no pass that runs."""
    from aprgraph.graph.errors import GraphError  # noqa: PLC0415

    if print_ir_after != "all" and print_ir_after not in names:
        running = ", ".join(names) or "none does; give --passes"
        raise GraphError(f"--print-ir-after {print_ir_after!r}: expected 'all' or a pass that runs: {running}")


def run_chosen(opened: Graph, chosen: list[Pass], print_ir_after: str | None) -> Graph:
    """The graph after the passes, printed after those that --print-ir-after names. Raises GraphError or PlanError."""
    from aprgraph.graph.errors import PlanError  # noqa: PLC0415
    from aprgraph.graph.ops import taps_of  # noqa: PLC0415
    from aprgraph.graph.passes import InsertTaps, run_passes  # noqa: PLC0415
    from aprgraph.graph.text import print_graph  # noqa: PLC0415

    if any(isinstance(one, InsertTaps) for one in chosen) and taps_of(opened):
        raise PlanError("--taps: the graph of a trace has its taps already; give the model or the artifact instead")

    def observe(name: str, after: Graph) -> None:
        if print_ir_after in ("all", name):
            print(f"// after {name}\n{print_graph(after)}", file=sys.stderr, end="")

    return run_passes(opened, chosen, observe)
