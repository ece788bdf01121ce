"""The HTML page of a comparison: what stands in it, and that it stands alone."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from aprgraph.comparison import diff
from aprgraph.graph.errors import TraceError
from aprgraph.runtime.blame import Audit, Blame, LocalError, LocalState, Verdict
from aprgraph.runtime.diff.metrics import TensorMetrics, compare_tensors
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.place import Place
from aprgraph.runtime.report import render_page, write_page
from aprgraph.runtime.trace.reader import Trace
from tests.support.traces import noisy, trace_model, values, write_bare, write_trace

_VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"})
_WRONG = Place(0, 1, "ffn_gate")


@dataclass
class Element:
    """One element of a page; ``own`` is the text directly in it."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None
    children: list[Element] = field(default_factory=list)
    own: str = ""

    @property
    def text(self) -> str:
        return self.own + "".join(child.text for child in self.children)

    def every(self, tag: str = "") -> list[Element]:
        found = [self] if tag in ("", self.tag) else []
        return found + [one for child in self.children for one in child.every(tag)]

    def by_id(self, name: str) -> Element:
        (found,) = [one for one in self.every() if one.attributes.get("id") == name]
        return found


class _Reader(HTMLParser):
    """Builds the elements, and insists on what a browser would only repair."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Element("#document", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(element)
        if tag not in _VOID:
            self.at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.own += data


def read_page(text: str) -> Element:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.at is reader.root, f"<{reader.at.tag}> is not closed"
    return reader.root


def page_of(a: Path, b: Path, blame: Callable[[DiffReport, Trace, Trace], Blame] | None = None) -> str:
    trace_a, trace_b = Trace.open(a), Trace.open(b)
    report = diff(trace_a, trace_b)
    return render_page(report if blame is None else replace(report, blame=blame(report, trace_a, trace_b)), trace_a, trace_b)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """A folder with a, alike (noise), other (another RoPE base), faulty (one stage too large), broken (NaN and Inf there)."""
    folder = tmp_path_factory.mktemp("traces")
    trace_model(folder / "a", tiny_model())
    trace_model(folder / "alike", tiny_model(), noise=5e-7)
    trace_model(folder / "other", tiny_model(), overrides={"llama.rope.freq_base": 500000.0})
    trace_model(folder / "faulty", tiny_model(), fault=lambda name, x: x * np.float32(1.5) if name == "layer1.ffn_gate" else x)
    trace_model(folder / "broken", tiny_model(), fault=_break)
    return folder


def _break(name: str, x: np.ndarray) -> np.ndarray:
    if name != "layer1.ffn_gate":
        return x
    x = x.copy()
    x[2, 5:9], x[4, 3] = np.nan, np.inf
    return x


def blame_b(report: DiffReport, a: Trace, b: Trace) -> Blame:
    """The faulty stage is B's: its local error is what the comparison found, every other tensor is explained exactly."""

    def audit(trace: Trace, wrong: bool) -> Audit:
        found = []
        for row in report.rows:
            assert isinstance(row.metrics, TensorMetrics)
            if wrong and row.key == _WRONG:
                sources = (Place(0, 1, "ffn_norm"),)
                one = LocalError(row.key, row.label, LocalState.WRONG, row.limit, row.metrics, sources, ("layer1.ffn_gate",), ("w",))
            else:
                one = LocalError(row.key, row.label, LocalState.RIGHT, row.limit, replace(row.metrics, nmse=3e-15))
            found.append(one)
        return Audit(str(trace.directory), "m.gguf", "float32", tuple(found), ("its biases are taken from the model",) if wrong else ())

    verdicts = {row.key: Verdict.B_WRONG if row.key == _WRONG else Verdict.RIGHT for row in report.rows}
    return Blame(audit(a, False), audit(b, True), verdicts, "B is wrong at layer 1 ffn_gate (local error 1.1e-01; A 3e-15).")


# -- what holds of every page ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["alike", "other", "faulty", "broken", "a", "blamed", "bare", "ids", "shapes", "nothing", "steps"])
def page(request: pytest.FixtureRequest, traces: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> str:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "blamed":
        return page_of(traces / "a", traces / "faulty", blame_b)
    if request.param == "bare":
        sides = [
            write_bare(folder / side, {(1, "ffn_up"): values(4, 8, seed=seed), (None, "lm_head"): values(9)})
            for side, seed in (("a", 1), ("b", 2))
        ]
        return page_of(*sides)
    if request.param == "ids":
        ids = np.array([[0, 1], [2, 3], [1, 0]], np.float32)
        write_trace(folder / "a", {(0, "moe_router_indices"): ids, (0, "moe_router"): values(3, 2)})
        write_trace(folder / "b", {(0, "moe_router_indices"): ids[::-1].copy(), (0, "moe_router"): values(3, 2)})
    elif request.param in ("shapes", "nothing"):
        write_trace(folder / "a", {(0, "ffn_up"): values(3, 8)})
        write_trace(folder / "b", {(0, "ffn_up" if request.param == "shapes" else "ffn_gate"): values(3, 9)})
    elif request.param == "steps":
        tensors = {(layer, "ffn_up", step): values(2, 8, seed=layer) for layer in (0, 1) for step in (0, 1, 2)}
        write_trace(folder / "a", tensors)
        write_trace(folder / "b", tensors | {(1, "ffn_up", 1): values(2, 8, seed=7)})
    else:
        return page_of(traces / "a", traces / request.param)
    return page_of(folder / "a", folder / "b")


def test_every_reference_resolves(page: str) -> None:
    everything = read_page(page).every()
    ids = [one.attributes["id"] for one in everything if "id" in one.attributes]
    assert len(set(ids)) == len(ids)
    references = [
        name
        for one in everything
        for attribute in ("aria-labelledby", "aria-describedby", "aria-controls", "for")
        for name in one.attributes.get(attribute, "").split()
    ]
    references += [one.attributes["href"].removeprefix("#") for one in everything if one.tag == "a"]
    assert len(references) >= 12
    assert set(references) <= set(ids)


def test_the_page_loads_nothing(page: str) -> None:
    root = read_page(page)
    for one in root.every():
        assert one.tag not in ("link", "iframe", "object", "embed", "base"), one.tag
        assert not [name for name in one.attributes if name.startswith("on") or name == "style"], one.attributes
        for name in ("src", "href", "action", "data", "srcset", "poster", "xlink:href"):
            assert one.attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), one.attributes
    assert not re.findall(r"url\(|@import|https?://", "".join(one.own for one in root.every("style")))
    # The one address is the name of the SVG namespace, which nothing fetches.
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}


def test_the_policy_allows_this_style_and_this_script_alone(page: str) -> None:
    root = read_page(page)
    policy = next(one.attributes["content"] for one in root.every("meta") if "http-equiv" in one.attributes)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for tag in ("style", "script"):
        (element,) = root.every(tag)
        digest = base64.b64encode(hashlib.sha256(element.own.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in policy


def test_what_is_seen_has_words(page: str) -> None:
    root = read_page(page)
    for figure in root.every("figure"):
        (caption,) = [child for child in figure.children if child.tag == "figcaption"]
        assert len(caption.text.split()) >= 4
    for image in root.every("img"):
        assert len(image.attributes["alt"].split()) >= 4
    for drawing in root.every("svg"):
        assert drawing.attributes["role"] == "img"
        assert drawing.attributes.get("aria-label") or drawing.attributes.get("aria-labelledby")
    for table in root.every("table"):
        assert table.every("caption") or table.attributes["aria-label"]
        assert all(head.attributes["scope"] in ("row", "col") for head in table.every("th"))
    for scrolling in [one for one in root.every() if one.attributes.get("class") == "scroll" and "tabindex" in one.attributes]:
        assert scrolling.attributes["aria-label"]
    levels = [int(one.tag[1]) for one in root.every() if re.fullmatch("h[1-6]", one.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= {one.tag for one in root.every()}


def test_each_table_row_has_a_cell_for_each_column(page: str) -> None:
    for table in read_page(page).every("table"):
        widths = {len([cell for cell in row.children if cell.tag in ("td", "th")]) for row in table.every("tr")}
        assert len(widths) == 1


# -- what each page says -------------------------------------------------------------------------------------------------


def test_the_verdict_is_the_headline_and_all_rows_are_there(traces: Path) -> None:
    report = diff(traces / "a", traces / "other")
    root = read_page(page_of(traces / "a", traces / "other"))
    assert root.every("h1")[0].text == report.summary.outcome
    rows = root.by_id("all-rows").every("tbody")[0].every("tr")
    assert [row.every("th")[0].text for row in rows] == [row.label for row in report.rows]
    (matter,) = [table for table in root.every("table") if table.every("caption") and "that matter" in table.every("caption")[0].text]
    assert [row.every("th")[0].text for row in matter.every("tbody")[0].every("tr")] == [row.label for row in report.rows_that_matter()]
    facts = next(one.text for one in root.every("dl") if one.attributes.get("class") == "facts")
    for fact in (str(traces / "a"), str(traces / "other"), report.profile, "exit code", "1, diverged"):
        assert fact in facts
    assert "graphs differ at %rope_angles" in root.every("header")[0].text
    assert "layer0.q_post_rope, rope_angles" in root.by_id("where").text


def test_the_map_has_every_tensor_once_with_a_glyph_beside_its_colour(traces: Path) -> None:
    report = diff(traces / "a", traces / "other")
    root = read_page(page_of(traces / "a", traces / "other"))
    (table,) = [one for one in root.every("table") if one.attributes.get("role") == "grid"]
    cells = [cell for cell in table.every("td") if "data-row" in cell.attributes]
    assert sorted(int(cell.attributes["data-row"]) for cell in cells) == list(range(len(report.rows)))
    glyphs = {"IDENTICAL": "=", "INTRODUCED": "◆", "PROPAGATED": "▾"}
    for cell in cells:
        row = report.rows[int(cell.attributes["data-row"])]
        assert cell.text == glyphs[row.classification.value]
        assert cell.parent is not None
        assert cell.parent.every("th")[0].text == row.key[2]
    stages = [row.every("th")[0].text for row in table.every("tbody")[0].every("tr")]
    assert stages[0] == "embedding"
    assert stages[-2:] == ["final_norm", "lm_head"]
    assert [head.text for head in table.every("thead")[0].every("th")] == ["stage", "0", "1", "model"]


def test_charts_show_every_measured_tensor(traces: Path) -> None:
    report = diff(traces / "a", traces / "broken")
    root = read_page(page_of(traces / "a", traces / "broken"))
    charts = [one for one in root.every("svg") if "data-points" in one.attributes]
    points = [[point.split(",") for point in chart.attributes["data-points"].split()] for chart in charts]
    assert [int(number) for number, _, _ in points[0]] == list(range(len(report.rows)))
    assert sorted(int(number) for chart in points[1:] for number, _, _ in chart) == list(range(len(report.rows)))
    gate = report.rows.index(report.row(_WRONG))
    heights = {int(number): float(y) for number, _, y in points[0]}
    # NaN stands above everything, what has no error below.
    assert all(heights[gate] < y for number, y in heights.items() if number != gate)
    assert heights[0] == max(heights.values())


def test_a_higher_error_stands_higher(tmp_path: Path) -> None:
    tensors = {(layer, "ffn_up"): values(4, 64, seed=layer) for layer in range(5)}
    write_trace(tmp_path / "a", tensors)
    write_trace(tmp_path / "b", {key: noisy(tensor, 10.0 ** (key[0] - 6)) for key, tensor in tensors.items()})
    report = diff(tmp_path / "a", tmp_path / "b")
    overview = read_page(page_of(tmp_path / "a", tmp_path / "b")).every("svg")[0]
    heights = [float(point.split(",")[2]) for point in overview.attributes["data-points"].split()]
    decades = [np.log10(row.error) for row in report.rows if row.error]
    assert len(heights) == len(decades) == 5
    slope, offset = np.polyfit(decades, heights, 1)
    assert slope < -5
    np.testing.assert_allclose(heights, np.multiply(decades, slope) + offset, atol=0.1)


def test_the_graph_is_drawn_around_the_region(traces: Path) -> None:
    root = read_page(page_of(traces / "a", traces / "other"))
    section = root.by_id("graph")
    (drawing,) = section.every("svg")
    drawn = {one.attributes["id"] for one in drawing.every("g") if one.attributes.get("class") == "node"}
    assert {
        f"node-{name}" for name in ("rope_angles", "layer0.qkv_matmul", "layer0.q_post_rope", "layer0.k_post_rope", "layer0.attn_scores")
    } <= drawn
    assert "node-lm_head" not in drawn
    assert not drawing.every("style")  # its rules would hold for the whole page; they stand in the page's own, confined


def test_without_a_graph_or_a_divergence_the_page_says_so(traces: Path, tmp_path: Path) -> None:
    x = values(4, 8)
    bare = [write_bare(tmp_path / side, {(0, "ffn_up"): tensor}) for side, tensor in (("a", x), ("b", 2 * x))]
    assert "Neither trace has a graph" in read_page(page_of(*bare)).by_id("graph").text
    alike = read_page(page_of(traces / "a", traces / "alike"))
    assert "Nothing diverged" in alike.by_id("graph").text
    assert "comes closest to its limit" in alike.by_id("tensor").text


def test_blame_gives_the_headline_the_verdicts_and_the_local_errors(traces: Path) -> None:
    report = diff(traces / "a", traces / "faulty")
    root = read_page(page_of(traces / "a", traces / "faulty", blame_b))
    assert " is wrong; " in root.every("h1")[0].text
    assert "layer 1 ffn_gate" in root.every("header")[0].text
    assert "its biases are taken from the model" in root.every("header")[0].text
    row = root.by_id(f"row-{report.rows.index(report.row(_WRONG))}")
    heads = [head.text for head in root.by_id("all-rows").every("thead")[0].every("th")]
    cells = dict(zip(heads, [cell.text for cell in row.children if cell.tag in ("td", "th")], strict=True))
    assert cells["verdict"] == " B WRONGB"  # what stands in the cell itself, and then its glyph
    assert cells["local error A"] == "3.00e-15"
    assert cells["local error B"] == cells["difference"] != ""
    assert row.every("span")[0].text == "B"
    assert root.by_id("tensor-title").text == "layer 1 ffn_gate, element by element"
    assert "B WRONG" in root.by_id("tensor").text
    gate = next(one for one in root.every("svg") if one.attributes.get("aria-label", "").startswith("ffn_gate along"))
    lines = {one.attributes["class"] for one in gate.every("path")}
    assert {"line apart", "line local-a", "line local-b", "limit"} <= lines
    (region,) = root.by_id("where").every("dl")
    assert "layer 1 ffn_norm" in region.text


def test_without_blame_there_is_no_local_error(traces: Path) -> None:
    page = page_of(traces / "a", traces / "faulty")
    assert "local error of" not in page
    assert "verdict" not in [head.text for head in read_page(page).by_id("all-rows").every("thead")[0].every("th")]


def test_the_tensor_that_cannot_be_shown_is_explained(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", {(0, "ffn_up"): values(3, 8)})
    write_trace(tmp_path / "b", {(0, "ffn_up"): values(3, 9)})
    assert (
        "cannot be shown element by element: A is 3 x 8, B is 3 x 9."
        in read_page(page_of(tmp_path / "a", tmp_path / "b")).by_id("tensor").text
    )


def test_two_files_of_other_stages(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", {(0, "ffn_up"): values(3, 8)})
    write_trace(tmp_path / "b", {(1, "ffn_gate"): values(3, 8, seed=4)})
    a, b = tmp_path / "a" / "layer-0" / "ffn_up.bin", tmp_path / "b" / "layer-1" / "ffn_gate.bin"
    root = read_page(render_page(diff(a, b), Trace.open(a.parents[1]), Trace.open(b.parents[1])))
    assert root.by_id("tensor-title").text == "layer 0 ffn_up, element by element"


# -- how it is written ---------------------------------------------------------------------------------------------------


def test_markup_in_names_stays_text(tmp_path: Path) -> None:
    a, b = tmp_path / "<script>alert(1)</script>", tmp_path / '"><img src=x onerror=alert(1)>'
    x = values(3, 8)
    write_trace(a, {(0, "ffn_up"): x}, fingerprint="<b>&")
    write_trace(b, {(0, "ffn_up"): 2 * x}, fingerprint="{{ 7 * 7 }}")
    report = replace(diff(a, b), notes=("</dl><script>alert(2)</script>", "{{ report }} {% raw %}"))
    root = read_page(render_page(report, Trace.open(a), Trace.open(b)))
    assert len(root.every("script")) == 1
    assert len(root.every("img")) == 2  # the map and its scale
    header = root.every("header")[0].text
    for text in (str(a), str(b), *report.notes):
        assert text in header


def test_labels_with_markup_stay_text_in_drawings_and_tables(traces: Path) -> None:
    trace_a, trace_b = Trace.open(traces / "a"), Trace.open(traces / "faulty")
    report = diff(trace_a, trace_b)
    rows = tuple(replace(row, label=f'<i title="{index}">&', reason="<u>\x00") for index, row in enumerate(report.rows))
    root = read_page(render_page(replace(report, rows=rows), trace_a, trace_b))
    assert not root.every("i")
    assert not root.every("u")
    assert root.by_id("all-rows").every("tbody")[0].every("th")[3].text == '<i title="3">&'


def test_the_same_comparison_gives_the_same_bytes(traces: Path, tmp_path: Path) -> None:
    once = page_of(traces / "a", traces / "other")
    assert once == page_of(traces / "a", traces / "other")
    code = (
        "import sys; from pathlib import Path; from aprgraph.comparison import diff; from aprgraph.runtime.report import write_page\n"
        "from aprgraph.runtime.trace.reader import Trace\n"
        "a, b = sys.argv[1:3]; write_page(Path(sys.argv[3]), diff(a, b), Trace.open(a), Trace.open(b))"
    )
    path = tmp_path / "elsewhere.html"
    arguments = [str(traces / "a"), str(traces / "other"), str(path)]
    subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments] if sys.version_info >= (3, 11) else [sys.executable, "-c", code, *arguments],
        check=True,
        cwd=tmp_path,
    )
    assert path.read_text(encoding="utf-8") == once


def test_writing_is_all_or_nothing(traces: Path, tmp_path: Path) -> None:
    trace_a, trace_b = Trace.open(traces / "a"), Trace.open(traces / "other")
    report = diff(trace_a, trace_b)
    write_page(tmp_path / "page.html", report, trace_a, trace_b)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    write_page(tmp_path / "new" / "page.html", report, trace_a, trace_b)
    for place in (tmp_path / "page.html" / "page.html", Path("/proc/nowhere/page.html")):
        with pytest.raises(TraceError, match=r"cannot be written"):
            write_page(place, report, trace_a, trace_b)


def test_three_thousand_rows_stay_below_three_megabytes(traces: Path) -> None:
    trace_a, trace_b = Trace.open(traces / "a"), Trace.open(traces / "other")
    report = diff(trace_a, trace_b)
    layer = [row for row in report.rows if row.key[1] == 1]
    many = [
        replace(row, key=Place(0, number, row.key.stage), label=f"layer {number} {row.key.stage}")
        for number in range(2, 2 + -(-3000 // len(layer)))
        for row in layer
    ]
    page = render_page(replace(report, rows=(*report.rows, *many)), trace_a, trace_b)
    assert len(report.rows) + len(many) >= 3000
    assert len(page.encode()) < 3_000_000


def test_what_the_page_needs_is_in_the_wheel(tmp_path: Path) -> None:
    """setuptools puts files that are not Python into a wheel only where it is told to."""
    root = Path(__file__).resolve().parents[2]
    build = "import sys, setuptools.build_meta as build; print(build.build_wheel(sys.argv[1]))"
    copy = tmp_path / "copy"
    for name in ("aprgraph", "graph", "codegen", "runtime"):
        _link_tree(root / name, copy / name)
    for name in ("pyproject.toml", "README.md"):
        (copy / name).symlink_to(root / name)
    (tmp_path / "wheel").mkdir()
    result = subprocess.run([sys.executable, "-c", build, str(tmp_path / "wheel")], cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"aprgraph/runtime/report/{name}" for name in ("page.css", "page.html.jinja", "page.js", "page.py")} <= names


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.name == "__pycache__":
            continue
        if path.is_dir():
            _link_tree(path, target / path.name)
        else:
            (target / path.name).symlink_to(path)


def test_metrics_are_those_of_the_differ(traces: Path) -> None:
    a, b = Trace.open(traces / "a"), Trace.open(traces / "other")
    metrics = compare_tensors(a.tensor("q_post_rope", 0), b.tensor("q_post_rope", 0))
    text = read_page(page_of(traces / "a", traces / "other")).by_id("detail").text
    assert metrics.nmse is not None
    assert f"{metrics.nmse:.2e}" in text
    assert ", ".join(map(str, metrics.max_index or ())) in text
