"""What an assertion says when it fails: the verdict in its parts, what was compared, and then the tables."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace

from aprgraph.cli.tables import format_table
from aprgraph.graph.arguments import Again, Command
from aprgraph.graph.message import Message
from aprgraph.graph.words import counted, small_number
from aprgraph.runtime.blame import Audit, LocalError, LocalState
from aprgraph.runtime.blame.wrong_rows import audit_rows, axis_lines, wrong_rows
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.comparison.pointed import matter
from aprgraph.runtime.summary import wrapped

_ROWS = 12
#: Columns of a verdict: pytest puts a few before each line.
_WIDTH = 76


def explain(found: Audit | Comparison) -> str:
    """All of it, as lines."""
    return "\n".join(_of_comparison(found) if isinstance(found, Comparison) else _of_audit(found))


def left_open(found: Audit | Comparison) -> tuple[str, ...]:
    """What keeps the verdict from being a plain one, and how many tensors could not be judged."""
    known = [str(one.sentence) for one in found.reservations]
    if isinstance(found, Comparison):
        return tuple(known)
    unknown = found.counts.get(LocalState.UNKNOWN, 0)
    return (*known, f"{counted(unknown, 'tensor')} could not be replayed") if unknown else tuple(known)


def _of_audit(found: Audit) -> Iterator[str]:
    yield _verdict(found)
    yield ""
    yield from wrapped(f"prompt: {found.prompt}", _WIDTH, "", "  ")
    yield "tensors: " + (", ".join(f"{count} {state.value}" for state, count in found.counts.items()) or "none")
    off = [one for one in found.locals if one.state in (LocalState.WRONG, LocalState.SHAPE) and found.other_model is None]
    rows = [[row.state, row.group.label, row.error, row.limit, row.worst, row.sources] for row in audit_rows(found, off)]
    yield from _table(("", "tensor", "local error", "limit", "largest at", "replayed from"), rows, (2, 3))
    if found.other_model is None:
        yield from _axes(found.wrong)


def _of_comparison(report: Comparison) -> Iterator[str]:
    blame = report.blame
    yield _verdict(report)
    yield ""
    yield from wrapped(f"A is {report.a}, B is {report.b}", _WIDTH, "", "  ")
    yield from wrapped(f"prompt: {report.prompt}", _WIDTH, "", "  ")
    yield "tensors: " + (", ".join(f"{count} {word}" for word, count in report.tally.items()) or "none")
    if blame is not None and blame.wrong:
        rows = [[row.verdict, row.group.label, row.a, row.b, row.limit, row.worst] for row in wrong_rows(blame)]
        yield from _table(("", "tensor", "local A", "local B", "limit", "largest at"), rows, (2, 3, 4))
        yield from _axes(map(blame.local_of, blame.wrong))
        return
    near = [[report.word(row), row.label, small_number(row.error), small_number(row.limit)] for row in matter(report)]
    yield from _table(("", "tensor", "error", "limit"), near, (2, 3))


def _axes(locals_: Iterable[LocalError | None]) -> Iterator[str]:
    """How far off along their axes those are that nothing explains."""
    for line in axis_lines(one for one in locals_ if one is not None and one.explanation is None):
        yield from wrapped(line, _WIDTH, "", "  ")


def _verdict(found: Audit | Comparison) -> str:
    """The parts of the verdict. What to do next is what a test can do: record more, or keep a page of what was found."""
    summary = found.summary
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    again = [line for line in summary.next if isinstance(line, Message) and isinstance(line.parts[0], Again)]
    if test and (again or not summary.next):
        page = Command("pytest", in_python=f"pytest --aprgraph-html=pages {shlex.quote(test)}")
        summary = replace(summary, next=("all of it as a page that opens offline:", Message(page)))
    return summary.text(_WIDTH)


def _table(header: tuple[str, ...], rows: list[list[str]], right: tuple[int, ...]) -> Iterator[str]:
    """The first rows, after an empty line, and how many more there are."""
    if rows:
        yield ""
        yield format_table(header, rows[:_ROWS], right, drop_empty=True, width=_WIDTH, spare=range(len(header) - 1, 4, -1))
    if len(rows) > _ROWS:
        yield f"{len(rows) - _ROWS} more rows"
