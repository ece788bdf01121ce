"""The audit of one trace as an HTML page that opens offline."""

from __future__ import annotations

from pathlib import Path

from aprgraph.graph.message import Words
from aprgraph.graph.words import listed
from aprgraph.runtime.blame.local_errors import Audit
from aprgraph.runtime.blame.wrong_rows import audit_rows, first_by_axis
from aprgraph.runtime.output_file import write_text_atomically
from aprgraph.runtime.report.axis_chart import axis_charts
from aprgraph.runtime.report.page import check_place
from aprgraph.runtime.report.template import NAMED, policy, resource, template

_OUTCOMES = {0: "right", 1: "wrong", 3: "nothing replayed"}


def write_audit_page(path: Path, audit: Audit, words: Words = str) -> None:
    """Write the page that ``render_audit`` makes to ``path``, whole or not at all. Raises TraceError."""
    check_place(path)
    write_text_atomically(path, render_audit(audit, words))


def render_audit(audit: Audit, words: Words = str) -> str:
    """The ``audit`` as an HTML document: the same bytes for the same audit. ``words`` say how arguments are named."""
    style = resource("page.css")
    off = {local.key for local in (*audit.wrong, *audit.misshapen)}
    page: str = template("audit.html.jinja", words).render(
        style=style,
        policy=policy(style),
        outcome=_OUTCOMES[audit.exit_code],
        audit=audit,
        summary=audit.summary.for_others,
        facts=[
            ("trace", audit.about),
            ("model", audit.model),
            ("prompt", str(audit.prompt)),
            ("profile", audit.profile),
            ("tensors", ", ".join(f"{count:,} {state.value}" for state, count in audit.counts.items()) or "none"),
            ("exit code", f"{audit.exit_code}, {_OUTCOMES[audit.exit_code]}"),
        ],
        wrong=audit_rows(audit, [local for local in audit.locals if local.key in off]),
        common=listed(audit.common, NAMED),
        by_axis=axis_charts(first_by_axis(audit.wrong)),
        rows=audit_rows(audit, audit.locals, each=True),
    )
    return page
