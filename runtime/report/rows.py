"""The tables: what each column says of a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aprgraph.graph.words import small_number
from aprgraph.runtime.blame import Audit, Blame
from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.diff.indices import IndexMetrics
from aprgraph.runtime.diff.metrics import Concentration, TensorMetrics
from aprgraph.runtime.diff.report import DiffRow
from aprgraph.runtime.report.marks import glyph, is_guilty, level
from aprgraph.runtime.report.numbers import dims


@dataclass(frozen=True)
class Column:
    """``short`` columns are those of the short table as well; ``numeric`` ones are sorted as numbers."""

    name: str
    cell: Callable[[DiffRow], str]
    numeric: bool = False
    short: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row as the page shows it. ``number`` is its place in execution order, which the page's script finds it by; ``word`` is its
    verdict, or without blame its class.
    """

    number: int
    label: str
    word: str
    mark: str
    meaning: str
    level: str
    guilty: bool
    cells: tuple[str, ...]


def make_columns(report: Comparison) -> tuple[Column, ...]:
    """The columns after verdict (or class) and tensor; with blame, also each side's local error, its limit, and the class."""
    blamed: tuple[Column, ...] = ()
    replayed: tuple[Column, ...] = ()
    blame = report.blame
    if blame is not None:
        a, b = blame.a, blame.b
        blamed = (
            Column("local error A", lambda row: _local(a, row), numeric=True, short=True),
            Column("local error B", lambda row: _local(b, row), numeric=True, short=True),
            Column("local limit", lambda row: _local_limit(blame, row), numeric=True, short=True),
            Column("class", lambda row: row.classification.value),
        )
        replayed = (Column("replay of A", lambda row: _reason(a, row)), Column("replay of B", lambda row: _reason(b, row)))
    return (
        *blamed,
        Column("shape", lambda row: dims(row.shape), short=True),
        Column("error" if blame is None else "difference", _error, numeric=True, short=True),
        Column("limit", lambda row: small_number(row.limit), numeric=True, short=True),
        Column("SQNR dB", lambda row: _of(row, lambda m: "" if m.sqnr_db is None else f"{m.sqnr_db:.1f}"), numeric=True),
        Column("cosine", lambda row: _of(row, lambda m: "" if m.cosine is None else f"{m.cosine:.6f}"), numeric=True, short=True),
        Column("max |Δ|", lambda row: _of(row, lambda m: small_number(m.max_abs)), numeric=True, short=True),
        Column("max |Δ| at", lambda row: _of(row, lambda m: ", ".join(map(str, m.max_index)) if m.max_index and m.max_abs else "")),
        Column("worst position", lambda row: _of(row, lambda m: _worst(m.positions)), numeric=True, short=True),
        Column("worst channel", lambda row: _of(row, lambda m: _worst(m.channels)), numeric=True),
        Column("NaN+Inf A/B", lambda row: _of(row, lambda m: f"{m.nan_a + m.inf_a}/{m.nan_b + m.inf_b}"), numeric=True, short=True),
        Column("rms A", lambda row: _of(row, lambda m: small_number(m.rms_a)), numeric=True, short=blame is None),
        Column("rms B", lambda row: _of(row, lambda m: small_number(m.rms_b)), numeric=True, short=blame is None),
        Column("why", _why),
        *replayed,
    )


def table_rows(report: Comparison, columns: tuple[Column, ...]) -> list[TableRow]:
    """All rows, in execution order."""
    return [
        TableRow(
            number,
            row.label,
            report.word(row),
            *glyph(report, row),
            level(report, row),
            is_guilty(report, row),
            tuple(column.cell(row) for column in columns),
        )
        for number, row in enumerate(report.rows)
    ]


def _of(row: DiffRow, text: Callable[[TensorMetrics], str]) -> str:
    return text(row.metrics) if isinstance(row.metrics, TensorMetrics) else ""


def _error(row: DiffRow) -> str:
    if isinstance(row.metrics, IndexMetrics):
        return f"{row.error:.3g} of ids"
    return small_number(row.error)


def _why(row: DiffRow) -> str:
    limit = f"limit by {row.override}" if row.override else None
    return "; ".join(filter(None, (row.reason, row.remark, limit)))


def _worst(axis: Concentration | None) -> str:
    """The index with most of the error, and the part that it (for channels: the worst 1 %) has of it."""
    return "" if axis is None or axis.size < 2 or not axis.share else f"{axis.worst[0]} ({axis.share:.0%})"


def _local(audit: Audit, row: DiffRow) -> str:
    return small_number(audit.by_key[row.key].error) if row.key in audit.by_key else ""


def _local_limit(blame: Blame, row: DiffRow) -> str:
    local = blame.local_of(row.key)
    return "" if local is None or local.error is None else small_number(local.limit)


def _reason(audit: Audit, row: DiffRow) -> str:
    return (audit.by_key[row.key].reason or "") if row.key in audit.by_key else ""
