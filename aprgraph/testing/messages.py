"""What an assertion says when it fails: the verdict with its explanation, then what makes it less certain, then the tables."""

from __future__ import annotations

from collections.abc import Iterator

from aprgraph.cli.tables import format_table
from aprgraph.graph.words import counted, listed, plain, small_number
from aprgraph.runtime.blame import Audit, LocalState
from aprgraph.runtime.blame.wrong_rows import audit_rows, axis_lines, wrong_rows
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.comparison.pointed import matter, one_a_stage, suspects
from aprgraph.runtime.diff.caveats import by_importance

_ROWS, _NAMES = 12, 8


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
    yield plain(found.sentence)
    yield from _notes(by_importance(found.notes))
    yield f"prompt: {plain(str(found.prompt))}"
    yield "tensors: " + (", ".join(f"{count} {state.value}" for state, count in found.counts.items()) or "none")
    if found.common:
        yield f"common to all of them: {listed(found.common, _NAMES)}"
    off = [local for local in found.locals if local.state in (LocalState.WRONG, LocalState.SHAPE)]
    rows = [[row.state, row.group.label, row.error, row.limit, row.worst, row.sources, row.why] for row in audit_rows(found, off)]
    yield from _table(("", "tensor", "local error", "limit", "largest at", "replayed from", "why"), rows, (2, 3))
    yield from axis_lines(found.wrong)


def _of_comparison(report: Comparison) -> Iterator[str]:
    blame = report.blame
    yield plain(report.headline)
    yield from _notes(report.all_notes)
    yield f"A is {plain(report.a)}, B is {plain(report.b)}"
    yield f"prompt: {plain(str(report.prompt))}"
    yield "tensors: " + (", ".join(f"{count} {word}" for word, count in report.tally.items()) or "none")
    for group, first in one_a_stage(suspects(report))[:_NAMES]:
        weights = f", or in the weights {listed(first.weights[::-1], _NAMES)}" if first.weights else ""
        yield plain(f"{group.label}: the cause lies in {listed(first.region[::-1], _NAMES)}{weights}")
    if blame is not None and blame.wrong:
        rows = [[row.verdict, row.group.label, row.a, row.b, row.limit, row.worst, row.why] for row in wrong_rows(blame)]
        yield from _table(("", "tensor", "local A", "local B", "limit", "largest at", "why"), rows, (2, 3, 4))
        yield from axis_lines(map(blame.local_of, blame.wrong))
        return
    near = [[report.word(row), row.label, small_number(row.error), small_number(row.limit), row.reason or ""] for row in matter(report)]
    yield from _table(("", "tensor", "error", "limit", "why"), near, (2, 3))


def _notes(notes: tuple[str, ...] | list[str]) -> Iterator[str]:
    yield from (plain(f"note: {note}") for note in notes)


def _table(header: tuple[str, ...], rows: list[list[str]], right: tuple[int, ...]) -> Iterator[str]:
    """The first rows, after an empty line, and how many more there are."""
    if rows:
        yield ""
        yield format_table(header, rows[:_ROWS], right, drop_empty=True)
    if len(rows) > _ROWS:
        yield f"{len(rows) - _ROWS} more rows"
