"""How models, traces, reports, audits and graphs show themselves in a notebook: one cell of HTML each, of bounded size.

A cell loads nothing and runs nothing. It says first what is to be read first, then the tables, then a map of stages by layers. It
takes the notebook's own text colour and page, light or dark; whatever a file or a manifest says is escaped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprgraph.notebook.cell import LARGEST

if TYPE_CHECKING:
    from aprgraph.runtime.blame import Audit
    from aprgraph.runtime.comparison import Comparison

__all__ = ["LARGEST", "cell_of", "page_of", "write_page"]


def cell_of(value: Any) -> str:
    """The cell that shows ``value``, at most LARGEST characters of HTML. Raises TypeError for what has none."""
    from aprgraph.notebook.kinds import CELLS  # noqa: PLC0415 -- what a program may never show

    for kind, draw in CELLS:
        if isinstance(value, kind):
            return draw(value)
    raise TypeError(f"{type(value).__name__} has no cell")


def page_of(found: Audit | Comparison) -> str:
    """A report, or an audit, as one HTML page that opens offline. Raises TraceError where a tensor to show cannot be read."""
    from aprgraph.runtime.comparison import Comparison  # noqa: PLC0415
    from aprgraph.runtime.diff.sources import open_pair  # noqa: PLC0415
    from aprgraph.runtime.report import render_page  # noqa: PLC0415
    from aprgraph.runtime.report.audit_page import render_audit  # noqa: PLC0415

    if isinstance(found, Comparison):
        return render_page(found, *(found.traces or open_pair(found.a, found.b)))
    return render_audit(found)


def write_page(path: Path, found: Audit | Comparison) -> None:
    """Write ``page_of`` to ``path``, whole or not at all. Raises TraceError where that fails, or where something else lies there."""
    from aprgraph.runtime.output_file import write_text_atomically  # noqa: PLC0415
    from aprgraph.runtime.report import check_place  # noqa: PLC0415

    check_place(path)
    write_text_atomically(path, page_of(found))
