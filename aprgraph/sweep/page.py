"""One page over all cells of a sweep, and a page for each: a folder that opens offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import TraceError
from aprgraph.graph.whole_folder import whole_folder
from aprgraph.graph.words import counted, plain, shape_text, small_number
from aprgraph.runtime.output_file import probe
from aprgraph.runtime.place import Place
from aprgraph.runtime.report.template import policy, resource, template
from aprgraph.runtime.trace.manifest import MANIFEST
from aprgraph.sweep.findings import FAILED, MISSING, Finding, Findings
from aprgraph.sweep.matrix import VERSIONS
from aprgraph.sweep.plan import SweepPlan
from aprgraph.sweep.store import Store

_INDEX = "index.html"
_GENERATOR = b'<meta name="generator" content="aprgraph">'
_OUTCOMES = {0: "nothing off", 1: "off", 2: "incomplete", 3: "nothing measured"}
#: A mark's glyph and its level of page.css, by state.
_MARKS = {"WRONG": ("✕", 7), "DIVERGED": ("✕", 7), "RIGHT": ("·", 1), "ALIKE": ("·", 1)}


def check_page_folder(path: Path) -> None:
    """Raise TraceError unless the pages can be written into ``path``: a folder that is there must hold pages that this wrote."""
    if path.exists() and not path.is_dir():
        raise TraceError.at_place(f"{path}: is a file, expected the name of a folder")
    if path.is_dir() and any(path.iterdir()):
        index = path / _INDEX
        if not index.is_file() or _GENERATOR not in index.read_bytes()[:4096]:
            raise TraceError.at_place(f"{path}: is there, and holds no pages of a sweep")
    probe(path.absolute().parent)


def write_pages(path: Path, found: Findings, plan: SweepPlan, store: Store) -> None:
    """Write ``index.html`` and a page for each cell into ``path``, all or nothing. Raises TraceError."""
    check_page_folder(path)
    try:
        with whole_folder(path) as folder:
            (folder / _INDEX).write_text(render_index(found, plan), encoding="utf-8")
            for cell in found.cells:
                if cell.state not in (MISSING, FAILED):
                    (folder / page_name(cell)).write_text(_cell_page(cell, store), encoding="utf-8")
    except OSError as error:
        raise TraceError.unwritable(error.filename or path, error) from None


def page_name(cell: Finding) -> str:
    """The file of a cell's own page."""
    return f"{'versions' if cell.along == VERSIONS else 'cell'}-{cell.key[:16]}.html"


def render_index(found: Findings, plan: SweepPlan) -> str:
    """The page over all cells, as an HTML document: the same bytes for the same findings."""
    style = resource("page.css")
    page: str = template("sweep.html.jinja", str).render(
        style=style,
        policy=policy(style),
        outcome=_OUTCOMES[found.exit_code],
        found=found,
        name=plan.matrix.path.name,
        facts=[
            ("matrix", plan.matrix.path.name),
            ("cells", ", ".join(f"{count:,} {state}" for state, count in found.counts.items())),
            ("prompts", str(len(plan.matrix.prompts))),
            ("models", ", ".join(model.name for model in plan.matrix.models)),
            ("targets", ", ".join(plan.matrix.targets)),
            ("exit code", f"{found.exit_code}, {_OUTCOMES[found.exit_code]}"),
        ],
        notes=plan.notices,
        tables=[(title, found.by(field)) for title, field in _TABLES if len(found.by(field)) > 1],
        columns=_columns(found),
        rows=list(_rows(found, plan)),
        off=[(cell, page_name(cell)) for cell in found.off],
        lacking=[cell for cell in found.cells if cell.state in (MISSING, FAILED, "NOT COMPARABLE")],
    )
    return page


_TABLES = (("models", "model"), ("targets", "target"), ("arithmetics", "arithmetic"), ("overrides", "overrides"), ("prompts", "prompt"))
_Column = tuple[str, str, str, str, str, str]


def _column_of(cell: Finding) -> _Column:
    beside = f"beside {cell.beside}" if cell.along is not None else ""
    return (cell.at.model, cell.at.target, cell.at.arithmetic, cell.at.overrides, cell.along or "", beside)


def _columns(found: Findings) -> list[str]:
    """The heads of the map: what cells of one prompt differ by."""
    columns = dict.fromkeys(map(_column_of, found.cells))
    varies = [len({column[index] for column in columns}) > 1 for index in range(6)]
    return [", ".join(part for part, shown in zip(column, varies, strict=True) if shown and part) or column[0] for column in columns]


def _rows(found: Findings, plan: SweepPlan) -> Iterator[tuple[str, int, list[tuple[str, int, str, str] | None]]]:
    """(prompt, tokens, its cells as glyph, level, words and page) in the order of the matrix."""
    columns = [*dict.fromkeys(map(_column_of, found.cells))]
    by_prompt: dict[str, dict[_Column, Finding]] = {}
    for cell in found.cells:
        by_prompt.setdefault(cell.at.prompt, {})[_column_of(cell)] = cell
    for prompt in plan.matrix.prompts:
        own = by_prompt.get(prompt.name, {})
        yield prompt.name, plan.tokens.get(prompt.name, 0), [_mark(own.get(column)) for column in columns]


def _mark(cell: Finding | None) -> tuple[str, int, str, str] | None:
    if cell is None:
        return None
    glyph, level = _MARKS.get(cell.state, ("?", 4))
    there = cell.state not in (MISSING, FAILED)
    return glyph, level, plain(f"{cell.state}: {cell.sentence}"), page_name(cell) if there else ""


def _cell_page(cell: Finding, store: Store) -> str:
    """The page that the cell has where something is off, else one made of its documents."""
    place = store.place(cell.key)
    for name in ("audit.html", "diff.html"):
        if cell.along != VERSIONS and (place / name).is_file():
            return (place / name).read_text(encoding="utf-8")
    style = resource("page.css")
    heads, rows = _tensors(cell, store)
    page: str = template("sweep_cell.html.jinja", str).render(
        style=style,
        policy=policy(style),
        cell=cell,
        facts=[
            ("prompt", f"{cell.at.prompt}, {counted(cell.tokens, 'token')}"),
            ("model", f"{cell.at.model}, {cell.at.overrides}"),
            ("target", f"{cell.at.target}, {cell.at.arithmetic}"),
            *([("beside", str(cell.beside))] if cell.along is not None else []),
            ("tensors", ", ".join(f"{count:,} {state}" for state, count in (cell.counts or {}).items()) or "none"),
            ("cell", cell.key),
        ],
        heads=heads,
        rows=rows,
    )
    return page


def _tensors(cell: Finding, store: Store) -> tuple[tuple[str, str, str], list[tuple[str, str, str, str]]]:
    """The heads of the table, and (tensor, state, error, limit); of a run that was not audited its statistics."""
    place = store.place(cell.key)
    for name, tensors, state in (("audit.json", "tensors", "state"), ("diff.json", "rows", "class")):
        if cell.along != VERSIONS and (place / name).is_file():
            found = store.read(cell.key, name)[tensors]
            return (state, "error", "limit"), [(_label(one), str(one[state]), _number(_error(one)), _number(one["limit"])) for one in found]
    found = store.read(cell.key, MANIFEST)["tensors"] if (place / MANIFEST).is_file() else []
    rows = [(_label(one), shape_text(one["shape"]), _number(one["statistics"]["rms"]), _number(one["statistics"]["mean"])) for one in found]
    return ("shape", "rms", "mean"), rows


def _error(one: dict[str, Any]) -> Any:
    return one["error"] if "error" in one else (one["metrics"] or {}).get("nmse")


def _label(one: dict[str, Any]) -> str:
    return Place(one["step"], one["layer"], one["stage"]).label


def _number(value: Any) -> str:
    return small_number(value) if isinstance(value, int | float) else ""
