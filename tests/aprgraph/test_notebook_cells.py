"""What a notebook shows: bounded, escaped, complete HTML with the verdict first."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.export.divergence import CLASS_BY_NAME
from aprgraph.graph.ir import Graph, Node, TensorType
from aprgraph.notebook.cell import LARGEST
from aprgraph.notebook.stage_map import Mark, map_rules, stage_map
from aprgraph.runtime.place import Place
from aprgraph.runtime.report.marks import GLYPHS
from aprgraph.runtime.trace.reader import Trace
from tests.runtime.test_report_colours import READABLE, contrast
from tests.support.blame import TOKENS, spoil, traced

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_VOID = {"img", "br", "meta"}
#: Elements whose end HTML lets a page leave out.
_OPEN_ENDED = {"td", "th", "tr", "thead", "tbody"}


class _Reader(HTMLParser):
    """The text of a cell, and its elements; what is closed must have been opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID | _OPEN_ENDED:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in _OPEN_ENDED or self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(value: Any) -> tuple[str, _Reader]:
    html = value._repr_html_()
    assert len(html) <= LARGEST
    reader = _Reader(html)
    assert not {tag for tag, _ in reader.elements} & {"script", "link", "iframe", "object"}
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)
    return html, reader


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model()


@pytest.fixture(scope="module")
def traces(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trace, Trace]:
    place = tmp_path_factory.mktemp("cells")
    a, b = traced(place / "ours", model), traced(place / "theirs", model)
    spoil(b, "ffn_up", 1, np.abs)
    return a, b


@pytest.mark.contract("NOTEBOOK-SHOWN-1")
def test_each_kind_shows_itself(model: Path, traces: tuple[Trace, Trace]) -> None:
    loaded = aprgraph.load(model)
    blamed = aprgraph.diff(*traces, model=loaded)
    audited = aprgraph.audit(traces[1], loaded)
    for value, first in (
        (blamed, blamed.summary.outcome),
        (aprgraph.diff(*traces), aprgraph.diff(*traces).summary.outcome),
        (audited, audited.summary.outcome),
        (traces[0], "Trace ours: "),
        (loaded, f"Model {model.name}: llama, 2 layers"),
        (loaded.compile("reference", traces[0].directory.parent / "m.aprg"), f"Compiled model {model.name}: llama"),
        (loaded.graph, f"Graph @{loaded.graph.name}: "),
        (aprgraph.check(model), aprgraph.check(model).sentence),
        (aprgraph.weights(model, model), "The same model"),
    ):
        _, reader = read(value)
        says = reader.words[reader.words.index(next(word for word in reader.words if word.startswith(first[:40])))]
        assert says.startswith(first[:1400])
    _, reader = read(audited)
    marks = [attrs for tag, attrs in reader.elements if tag == "td" and "title" in attrs]
    assert [attrs["title"] for attrs in marks] == [f"{one.label}: WRONG {one.error:.2e}" for one in audited.wrong]
    assert any(
        tag == "img" and (attrs["src"] or "").startswith("data:image/svg+xml;base64,") for tag, attrs in read(loaded.graph)[1].elements
    )


@pytest.mark.contract("NOTEBOOK-SHOWN-2")
def test_what_files_say_is_escaped(model: Path, traces: tuple[Trace, Trace]) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=1>\x1b"
    found = aprgraph.audit(traces[1], model)
    for value in (replace(found, sentence=evil, notes=(evil,)), replace(aprgraph.check(model), path=Path(evil))):
        html, reader = read(value)
        assert evil not in html
        assert "\x1b" not in html
        assert any("<script>alert(1)" in word for word in reader.words)


@pytest.mark.contract("NOTEBOOK-SHOWN-1")
def test_cells_are_bounded_however_much_there_is(model: Path, traces: tuple[Trace, Trace]) -> None:
    found = aprgraph.audit(traces[1], model)
    wrong = found.wrong[0]
    many = [replace(wrong, key=Place(0, layer, f"stage_{number}"), label="x" * 100) for layer in range(100) for number in range(60)]
    html, _ = read(replace(found, locals=tuple(many), sentence="s" * 10**6, notes=("n" * 10**6,) * 1000))
    assert "a column is up to 3 layers" in html
    assert "12 more stages" in html
    graph = Graph("large")
    for number in range(400):
        graph.add(
            Node(f"n{number}", f"op{number}", TensorType("f32", ("n", 64)), {}, f"stage_{number}"), [f"n{number - 1}"] if number else []
        )
    html, _ = read(graph)
    assert "385 more rows" in html


def test_a_map_shows_the_step_where_something_is_off_and_what_is_worst_of_several_layers() -> None:
    marks = {Place(step, layer, "ffn_up"): Mark("RIGHT", "·") for step in (0, 1) for layer in range(96)}
    marks[Place(1, 7, "ffn_up")] = Mark("B WRONG", "B", "layer 7", is_off=True)
    html = stage_map(marks, {"B WRONG": "wrong <there>"})
    assert "step 1 is shown, the first where something is off, of 2 steps; a column is up to 2 layers" in html
    assert "wrong &lt;there&gt;" in html
    assert html.count("<td class=is-right>") == 47
    assert '<td class=is-b-wrong title="layer 7">B' in html


def test_every_word_has_a_look() -> None:
    assert {one.value for one in GLYPHS} <= set(CLASS_BY_NAME)


def test_words_are_readable_on_their_marks() -> None:
    rules = re.findall(r"background: light-dark\((#\w+), (#\w+)\); color: light-dark\((#\w+), (#\w+)\)", map_rules())
    assert len(rules) == len(CLASS_BY_NAME)
    for light, dark, word, word_dark in rules:
        assert contrast(light, word) >= READABLE, (light, word)
        assert contrast(dark, word_dark) >= READABLE, (dark, word_dark)


def test_a_page_of_a_comparison(traces: tuple[Trace, Trace], model: Path) -> None:
    report = aprgraph.diff(*traces, model=model)
    page = report.to_html()
    assert page.startswith("<!DOCTYPE html>")
    assert report.summary.outcome in page
    audited = aprgraph.audit(traces[1], model)
    assert audited.summary.outcome in audited.to_html()
    assert aprgraph.diff(*(str(one.directory) for one in traces), model=model, tokens=TOKENS).to_html() == page


def cells_of(notebook: Path) -> Iterator[str]:
    """The code of a notebook's cells."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            yield "".join(cell["source"])


def run_cell(code: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does: its value is that of its last expression, None where it ends otherwise."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # type: ignore[attr-defined]


@pytest.mark.contract("NOTEBOOK-SHOWN-1")
def test_the_notebook_runs_and_shows_what_it_finds(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells in this process, without a kernel of Jupyter's: that would be some twenty packages more to lock."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    model = tiny_model(rope_base=100000.0)
    names: dict[str, Any] = {}
    shown = []
    for code in cells_of(EXAMPLES / "first_look.ipynb"):
        value = run_cell(f"MODEL = {str(model)!r}" if code.startswith("MODEL = ") else code, names)
        shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    said = "\n".join(shown)
    assert said.count("RoPE&#x27;s base is 10000 in place of 100000") >= 2
    assert names["report"].exit_code == names["found"].exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.reference.aprg", "ours", "report.html"]


def test_the_notebook_holds_no_outputs() -> None:
    """They would be of one machine, and a million characters in a review."""
    document = json.loads((EXAMPLES / "first_look.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in document["cells"])
