"""The report as one HTML page that opens offline."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from aprgraph.graph.words import bytes_text, shape_text, small_number
from aprgraph.runtime.output_file import check_file_place, write_text_atomically
from aprgraph.runtime.weights.finding import SAME, Status, TensorFinding
from aprgraph.runtime.weights.report import WeightsReport

#: In the head of each page.
_GENERATOR = b'<meta name="generator" content="aprgraph weights">'


def write_page(path: Path, report: WeightsReport) -> None:
    """Write the page to ``path``, whole or not at all. Raises TraceError."""
    check_place(path)
    write_text_atomically(path, render_page(report))


def check_place(path: Path) -> None:
    """Raise TraceError unless a page can be written to ``path``: a file that is there must be such a page."""
    check_file_place(path, lambda head: _GENERATOR in head, "page of this kind")


def render_page(report: WeightsReport) -> str:
    """The comparison as an HTML document."""
    page: str = _template().render(
        report=report,
        outcome={0: "the same", 1: "not the same"}.get(report.exit_code, "cannot be said"),
        counts=[(status.value, len(report.of(status))) for status in Status if report.of(status)],
        rows=[_row(one) for one in report.findings],
        sizes=[bytes_text(path.stat().st_size) if path.is_file() else "" for path in report.paths],
        keys=[("Hyperparameters", report.hyperparameters), ("Tokenizer", report.tokenizer)],
    )
    return page


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 -- a tenth of a second that only pages need

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8"))


def _row(one: TensorFinding) -> dict[str, str]:
    measures = one.measures
    return {
        "status": one.status.value,
        "level": "right" if one.status in SAME else "unsure" if one.status is Status.UNTOLD else "wrong",
        "name": one.name,
        "formats": " / ".join(name or "none" for name in dict.fromkeys(one.formats)),
        "dims": " / ".join("none" if dims is None else shape_text(dims) for dims in dict.fromkeys(one.dims)),
        "text": one.text,
        "nmse": "" if measures is None else small_number(measures.nmse),
        "rounding": "" if measures is None or not measures.a_squares else small_number(measures.expected / measures.a_squares),
        "largest": "" if measures is None else small_number(measures.largest),
    }
