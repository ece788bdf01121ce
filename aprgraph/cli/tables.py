"""Plain text tables: aligned columns, no colours, no slow import. Traces have hundreds of rows, and a pipe may read them."""

from __future__ import annotations

from collections.abc import Sequence

from aprgraph.graph.words import plain


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), *, drop_empty: bool = False) -> str:
    """Aligned columns; ``right`` lists those to align to the right; ``drop_empty`` leaves out those that no row has anything in."""
    if drop_empty:
        kept = [index for index in range(len(header)) if any(row[index] for row in rows)]
        header, rows = [header[index] for index in kept], [[row[index] for index in kept] for row in rows]
        right = [kept.index(index) for index in right if index in kept]
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def format_number(value: float | None) -> str:
    """Four significant digits; a dash where there is no number."""
    return "-" if value is None else f"{value:.4g}"
