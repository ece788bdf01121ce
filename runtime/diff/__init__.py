"""The differ: where do two traces first part?

    open -> shapes -> align -> measure each pair -> classify along the graph -> report

``diff`` is the whole road; each arrow is one module. This is the values level: it compares what was recorded. What a
stage should have been, given its inputs, takes the model.
"""

from __future__ import annotations

from aprgraph.runtime.diff.classify import Class, FirstDivergence
from aprgraph.runtime.diff.compare import diff
from aprgraph.runtime.diff.report import DiffReport, DiffRow
from aprgraph.runtime.diff.tolerances import PROFILES

__all__ = ["PROFILES", "Class", "DiffReport", "DiffRow", "FirstDivergence", "diff"]
