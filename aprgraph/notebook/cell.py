"""The pieces of a cell: sentences, tables, and their bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files

from aprgraph.graph.words import counted, shortened
from aprgraph.runtime.summary import Summary, is_command

#: Characters of a cell; a notebook that holds larger ones is slow to open and to send.
LARGEST = 120_000
#: Characters of a sentence, and of a table's cell.
_SENTENCE, _CELL = 1500, 300
_ROWS, _NOTES = 15, 6

#: Columns that hold names, and those whose texts may take several lines.
_NAMES, _WIDE = ("tensor", "stage", "weight"), ("why", "what", "where", "replayed from", "in A", "in B", "type")
_CODE = ' class="name"'
#: What an exit code says at a glance.
LEVELS = {0: "good", 1: "bad"}


def cell(*parts: str, rules: str = "") -> str:
    """The cell of these pieces of HTML, with its style and further ``rules``."""
    return f'<div class="aprgraph"><style>{_style()}{rules}</style>{"".join(parts)}</div>'


@cache
def _style() -> str:
    return files(__package__).joinpath("cell.css").read_text(encoding="utf-8")


def text(value: object, most: int = _CELL) -> str:
    """``value`` in one line of bounded length, escaped."""
    return escape(shortened(str(value), most))


def says(sentence: str, level: str = "") -> str:
    """What is to be read first; ``level`` is one of LEVELS."""
    return f'<p class="says {level}">{text(sentence, _SENTENCE)}</p>'


def summary(parts: Summary, level: str = "") -> str:
    """A verdict: what came out, and its parts, each with its label."""
    rows = "".join(f'<tr><th class="label">{name}<td>{_lines(lines)}' for name, lines in parts.parts)
    return says(parts.outcome, level) + (f'<table class="parts">{rows}</table>' if rows else "")


def _lines(lines: Sequence[str]) -> str:
    shown = [f"<p{_CODE if is_command(one) else ''}>{text(one, _SENTENCE)}</p>" for one in lines[:_NOTES]]
    left = len(lines) - len(shown)
    return "".join([*shown, line(f"{left} more") if left else ""])


def line(sentence: str) -> str:
    """A further sentence."""
    return f'<p class="quiet">{text(sentence, _SENTENCE)}</p>'


def notes(sentences: Sequence[str]) -> str:
    """The first sentences, and how many more there are."""
    shown = [line(f"note: {one}") for one in sentences[:_NOTES]]
    left = len(sentences) - len(shown)
    return "".join([*shown, line(f"{counted(left, 'more note')}") if left else ""])


def table(header: Sequence[str], rows: Sequence[Sequence[object]], rest: str = "") -> str:
    """The first rows, without columns that hold nothing; ``rest`` says where those are that are left out."""
    kept = [index for index in range(len(header)) if any(str(row[index]) for row in rows)]
    if not kept:
        return ""
    head = "".join(f"<th>{text(header[index])}" for index in kept)
    body = "".join("<tr>" + "".join(f"<td{_kind(header[index])}>{text(row[index])}" for index in kept) for row in rows[:_ROWS])
    left = len(rows) - _ROWS
    more = line(f"{counted(left, 'more row')}{f': {rest}' if rest else ''}") if left > 0 else ""
    return f'<table class="rows"><thead><tr>{head}<tbody>{body}</table>{more}'


def _kind(column: str) -> str:
    return ' class="name"' if column in _NAMES else ' class="wide"' if column in _WIDE else ""


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values, one a line; those without a value are left out."""
    rows = "".join(f'<tr><th class="quiet">{text(name)}<td>{text(value, _SENTENCE)}' for name, value in pairs if str(value))
    return f"<table>{rows}</table>" if rows else ""
