"""Plain text tables: aligned columns, no colours, no slow import. Traces have hundreds of rows, and a pipe may read them."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

from aprgraph.graph.words import plain

#: A last column is not made narrower than this.
_NARROWEST = 20
#: Between columns.
_GAP = "  "


def columns() -> int | None:
    """How wide the lines of a person's terminal are; None where a pipe or a file takes them, and they are whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    *,
    drop_empty: bool = False,
    fold: bool = False,
    spare: Sequence[int] = (),
    width: int | None = None,
) -> str:
    """Aligned columns; ``right`` lists those to align to the right; ``drop_empty`` leaves out those that no row has anything in.

    Where ``width`` (default: that of a terminal) is less, the last column goes on in lines below if ``fold``, and the columns ``spare``
    are left out, in this order, as far as it takes.
    """
    width = columns() if width is None else width
    cells = [list(header), *([plain(cell) for cell in row] for row in rows)]
    kept = [index for index in range(len(header)) if not drop_empty or any(row[index] for row in cells[1:])]
    for index in spare:
        if width is None or _width(cells, kept) <= width:
            break
        kept = [i for i in kept if i != index]
    head, *body = ([row[index] for index in kept] for row in cells)
    if fold and width is not None:
        last = max(_NARROWEST, width - _width(cells, kept[:-1]) - len(_GAP))
        body = [line for row in body for line in _folded(row, last)]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    to_the_right = {kept.index(index) for index in right if index in kept}

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(wide) if i in to_the_right else cell.ljust(wide) for i, (cell, wide) in enumerate(zip(row, widths, strict=True))
        )
        return _GAP.join(padded).rstrip()

    return "\n".join([line(head), line(["-" * wide for wide in widths]), *map(line, body)])


def _width(cells: Sequence[Sequence[str]], kept: Sequence[int]) -> int:
    """How wide a table of the columns ``kept`` of ``cells`` is."""
    return sum(max(len(row[index]) for row in cells) + len(_GAP) for index in kept) - len(_GAP)


def _folded(row: Sequence[str], width: int) -> list[list[str]]:
    """``row`` as one or more, in which the last column is at most so wide."""
    parts = textwrap.wrap(row[-1], width, break_on_hyphens=False) or [""]
    return [[*row[:-1], parts[0]], *([*[""] * (len(row) - 1), part] for part in parts[1:])]


def format_number(value: float | None) -> str:
    """Four significant digits; a dash where there is no number."""
    return "-" if value is None else f"{value:.4g}"
