"""What has a cell, and how each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aprgraph.api import CompiledModel, LoadedModel
from aprgraph.bisection import Bisection
from aprgraph.graph.ir import Graph
from aprgraph.notebook.findings import audit_cell, bisection_cell, check_cell, comparison_cell, weights_cell
from aprgraph.notebook.models import compiled_cell, graph_cell, model_cell
from aprgraph.notebook.traces import trace_cell
from aprgraph.runtime.blame import Audit
from aprgraph.runtime.check import CheckReport
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.weights import WeightsReport

CELLS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (Comparison, comparison_cell),
    (Audit, audit_cell),
    (Bisection, bisection_cell),
    (Trace, trace_cell),
    (Graph, graph_cell),
    (LoadedModel, model_cell),
    (CompiledModel, compiled_cell),
    (WeightsReport, weights_cell),
    (CheckReport, check_cell),
)
