"""The SVG: valid, complete, and drawn so that nothing overlaps and no line crosses a box."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from aprgraph.graph.export.divergence import LOOKS
from aprgraph.graph.export.svg import export_svg
from aprgraph.graph.export.view import View, make_view
from aprgraph.graph.ir import Graph
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes import InsertTaps, Prune
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.graph.text import parse_graph
from tests.graph.test_export_formats import NASTY, nasty
from tests.graph.test_export_view import colours, stack

SVG = "{http://www.w3.org/2000/svg}"
Rectangle = tuple[float, float, float, float]
Point = tuple[float, float]


def rectangle(element: ET.Element) -> Rectangle:
    x, y, width, height = (float(element.get(name, "0")) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def boxes(root: ET.Element) -> dict[str, Rectangle]:
    found: dict[str, Rectangle] = {}
    for group in root.iter(f"{SVG}g"):
        if group.get("class") == "node":
            rect = group.find(f"{SVG}rect")
            assert rect is not None
            found[group.get("id", "").removeprefix("node-")] = rectangle(rect)
    return found


def points(data: str) -> Iterator[Point]:
    """Points along a path of M, L, C and Q, close to each other."""
    here = (0.0, 0.0)
    for command, arguments in re.findall(r"([MLCQ])([^MLCQ]*)", data):
        numbers = [float(number) for number in arguments.split()]
        controls = [here, *zip(numbers[::2], numbers[1::2], strict=True)]
        here = controls[-1]
        for step in range(41) if command != "M" else ():
            # De Casteljau: a line is a Bezier curve with no control points between its ends.
            t, row = step / 40, controls
            while len(row) > 1:
                row = [((1 - t) * a[0] + t * b[0], (1 - t) * a[1] + t * b[1]) for a, b in pairwise(row)]
            yield row[0]


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


TANGLED = """graph @tangled {
  %tokens = input : i32[n]
  %table = weight {dims = [8, 8], dtype = "f32", tensor = "table"} : f32[8, 8]
  %layer0.embedding = embed(%tokens, %table) {scale = 1.0} stage embedding layer 0 : f32[n, 8]
  %layer0.ffn_gate = silu(%layer0.embedding) stage ffn_gate layer 0 : f32[n, 8]
  %between = silu(%layer0.ffn_gate) : f32[n, 8]
  %layer0.ffn_up = mul(%between, %layer0.ffn_gate) stage ffn_up layer 0 : f32[n, 8]
  return %layer0.ffn_up
}"""


def wide() -> Graph:
    """Many branches that skip different numbers of rows."""
    lines = ["graph @wide {", "%tokens = input : i32[n]"]
    lines += [
        '%table = weight {dims = [8, 8], dtype = "f32", tensor = "table"} : f32[8, 8]',
        "%layer0.x0 = embed(%tokens, %table) {scale = 1.0} layer 0 : f32[n, 8]",
    ]
    for index in range(1, 24):
        one, other = index - 1 - index % min(index, 4), index * 5 // 7
        lines.append(f"%layer0.x{index} = add(%layer0.x{one}, %layer0.x{other}) layer 0 : f32[n, 8]")
    return parse_graph("\n".join([*lines, "return %layer0.x23", "}"]))


@pytest.fixture(params=["folded", "biased", "unfolded", "restricted", "tapped", "coloured", "tangled", "wide", "nasty", "odd"])
def view(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> View:
    def model(**options: object) -> Graph:
        return build_graph(load_model(tiny_model(**options)))

    makers: dict[str, Callable[[], View]] = {
        "folded": lambda: make_view(model(layers=4)),
        "biased": lambda: make_view(model(layers=2, qkv_bias=True, output_bias=True, ffn_bias=True, rope_freqs=True)),
        "unfolded": lambda: make_view(model(layers=4), fold=False),
        "restricted": lambda: make_view(model(layers=4), layers=range(1, 3)),
        "tapped": lambda: make_view(Prune()(InsertTaps(parse_plan("qkv_matmul,ffn_gate", "1..2"))(model(layers=4)))),
        "coloured": lambda: make_view(stack(5), colouring=colours(stack(5), layer2_attn_out=("INTRODUCED", 0.5))),
        "tangled": lambda: make_view(parse_graph(TANGLED)),
        "wide": lambda: make_view(wide()),
        "nasty": lambda: make_view(nasty()),
        "odd": lambda: make_view(stack(5, formats={2: "q4_1"})),
    }
    return makers[request.param]()


def test_every_box_is_there_once_and_inside_the_page(view: View) -> None:
    root = ET.fromstring(export_svg(view))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    found = boxes(root)
    assert sorted(found) == sorted(node.id for node in view.nodes)
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for left, top, right, bottom in found.values():
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height


def test_boxes_do_not_overlap_and_lie_in_their_cluster(view: View) -> None:
    root = ET.fromstring(export_svg(view))
    found = boxes(root)
    items = list(found.items())
    for index, (name, box) in enumerate(items):
        for other_name, other in items[:index]:
            assert not overlap(box, other), f"{name} and {other_name} overlap"
    clusters = [rectangle(rect) for rect in root.iter(f"{SVG}rect") if rect.get("class") == "cluster"]
    for index, cluster in enumerate(clusters):
        assert not any(overlap(cluster, other) for other in clusters[:index])
        for name, box in found.items():
            is_inside = cluster[0] < box[0] and box[2] < cluster[2] and cluster[1] < box[1] and box[3] < cluster[3]
            assert is_inside or not overlap(box, cluster), name


def test_no_line_crosses_a_box(view: View) -> None:
    root = ET.fromstring(export_svg(view))
    found = boxes(root)
    for path in root.iter(f"{SVG}path"):
        if path.get("class") != "line":
            continue
        for x, y in points(path.get("d", "")):
            for name, (left, top, right, bottom) in found.items():
                assert not (left + 1 < x < right - 1 and top + 1 < y < bottom - 1), f"a line crosses {name} at {x}, {y}"


def test_every_arrow_leaves_its_source_and_ends_at_its_target(view: View) -> None:
    root = ET.fromstring(export_svg(view))
    found = boxes(root)
    arrows: dict[str, set[str]] = {}
    for edge in view.edges:
        if not edge.repeat:
            arrows.setdefault(edge.source, set()).add(edge.target)
    drawn: dict[str, set[str]] = {}
    for group in root.iter(f"{SVG}g"):
        source = group.get("data-source")
        if source is None:
            continue
        line, head = group.find(f"{SVG}path[@class='line']"), group.find(f"{SVG}path[@class='head']")
        assert line is not None
        left, _, right, bottom = found[source]
        assert any(left <= x <= right and abs(y - bottom) < 1 for x, y in points(line.get("d", ""))), source
        tips = re.findall(r"M(\S+) (\S+?)L", head.get("d", "")) if head is not None else []
        at = {
            name
            for x, y in ((float(x), float(y)) for x, y in tips)
            for name, (l, t, r, b) in found.items()
            if l - 1 <= x <= r + 1 and t - 1 <= y <= b + 1
        }
        drawn[source] = at
    assert drawn == arrows


def test_it_explains_itself_without_eyes(view: View) -> None:
    root = ET.fromstring(export_svg(view))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == view.graph.name
    description = root.findtext(f"{SVG}desc") or ""
    assert all(group.title in description for group in view.groups)
    for node in root.iter(f"{SVG}g"):
        if node.get("class") == "node":
            assert node.findtext(f"{SVG}title")


def test_text_is_escaped() -> None:
    text = export_svg(make_view(nasty()))
    root = ET.fromstring(text)
    titles = "".join(title.text or "" for title in root.iter(f"{SVG}title"))
    assert NASTY.replace("\x01", "\ufffd") in titles


def test_a_box_says_what_it_is(tiny_model: Callable[..., Path]) -> None:
    graph = InsertTaps(parse_plan("qkv_matmul", "0..2"))(build_graph(load_model(tiny_model(format="Q8_0"))))
    root = ET.fromstring(export_svg(make_view(graph)))
    texts = {
        group.get("id"): ["".join(text.itertext()) for text in group.iter(f"{SVG}text")]
        for group in root.iter(f"{SVG}g")
        if group.get("id")
    }
    assert texts["node-layers0-1.qkv_matmul"] == [
        "qkv_matmul", "linear · f32[n, 128]", "q8_0 attn_q [64, 64]", "q8_0 attn_k [32, 64]", "q8_0 attn_v [32, 64]", "tap",
    ]  # fmt: skip


def test_it_has_a_light_and_a_dark_side_and_a_look_for_every_class() -> None:
    graph = stack(2)
    text = export_svg(make_view(graph, colouring=colours(graph, layer1_attn_out=("NAN", None))))
    assert "@media (prefers-color-scheme: dark)" in text
    assert "var(" not in text
    light, dark = text.split("@media", 1)
    for cls in LOOKS:
        name = cls.name.lower().replace(" ", "-")
        assert f".is-{name} {{ fill: {cls.light}; stroke: {cls.bar}; }}" in light
        assert f".is-{name} {{ fill: {cls.dark}; stroke: {cls.bar_dark}; }}" in dark
    root = ET.fromstring(text)
    legend = next(group for group in root.iter(f"{SVG}g") if group.get("id") == "legend")
    shown = [text.text or "" for text in legend.iter(f"{SVG}text")]
    assert [line.split(":")[0] for line in shown] == ["IDENTICAL 6", "NAN 1"]


def test_the_residual_stream_is_one_straight_column(tiny_model: Callable[..., Path]) -> None:
    found = boxes(ET.fromstring(export_svg(make_view(build_graph(load_model(tiny_model(layers=3)))))))
    column = ["layer0.embedding", "final_norm", "lm_head"]
    column += [f"layers0-2.{stage}" for stage in ("attn_norm", "attn_scores", "post_attn_residual", "ffn_norm", "post_ffn_residual")]
    assert len({(found[name][0] + found[name][2]) / 2 for name in column}) == 1
