"""The text-like formats: text, JSON, GraphML, DOT, Mermaid."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import networkx as nx
import pytest

from aprgraph.graph.export.formats import EXPORTERS, FORMAT_BY_SUFFIX
from aprgraph.graph.export.view import View, make_view
from aprgraph.graph.ir import Graph, Node, TensorType
from aprgraph.graph.passes import InsertTaps
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.graph.text import parse_graph
from tests.graph.test_export_view import colours, stack

NASTY = 'a"b<c>&\\{layer}#;`\n]]>\x01é'


def nasty() -> Graph:
    """A graph whose tensor's name has everything in it that a format could trip over."""
    graph = Graph("nasty", {"architecture": NASTY})
    graph.add(Node("tokens", "input", TensorType("i32", ("n",))))
    attrs = {"tensor": NASTY, "dtype": "f32", "dims": (8, 8)}
    graph.add(Node("table", "weight", TensorType("f32", (8, 8)), attrs))
    graph.add(Node("layer0.embedding", "embed", TensorType("f32", ("n", 8)), {"scale": 1.0}, "embedding", 0), ["tokens", "table"])
    graph.outputs = ("layer0.embedding",)
    return graph


def views() -> dict[str, View]:
    graph = stack(4, formats={3: "q4_1"})
    tapped = InsertTaps(parse_plan("attn_out", "1..2"))(graph)
    return {
        "folded": make_view(graph),
        "unfolded": make_view(graph, fold=False),
        "restricted": make_view(graph, layers=range(1, 2)),
        "tapped": make_view(tapped),
        "coloured": make_view(graph, colouring=colours(graph, layer1_attn_out=("INTRODUCED", float("nan")))),
        "nasty": make_view(nasty()),
    }


each_view = pytest.mark.parametrize("view", views().values(), ids=views().keys())


@each_view
@pytest.mark.parametrize("name", EXPORTERS)
def test_the_same_view_gives_the_same_text(name: str, view: View) -> None:
    text = EXPORTERS[name](view)
    assert text == EXPORTERS[name](view)
    assert text.endswith("\n")


def test_every_format_has_a_suffix() -> None:
    assert set(FORMAT_BY_SUFFIX.values()) | {"model-explorer"} == set(EXPORTERS)


def test_text_parses_back_coloured_or_not() -> None:
    graph = stack(3)
    assert parse_graph(EXPORTERS["text"](make_view(graph))) == graph
    coloured = EXPORTERS["text"](make_view(graph, colouring=colours(graph, layer1_attn_out=("INTRODUCED", 0.5))))
    assert parse_graph(coloured) == graph
    lines = coloured.splitlines()
    assert lines[lines.index("  // INTRODUCED, NMSE 5.0e-01") + 1].startswith("  %layer1.attn_out = ")


def test_text_of_some_layers_has_those_and_says_so() -> None:
    text = EXPORTERS["text"](make_view(stack(4), layers=range(1, 2)))
    assert "// only layers 1..2 are shown" in text
    defined = re.findall(r"^  %(\S+) =", text, re.MULTILINE)
    assert defined == [
        "tokens", "blk.1.attn_norm.weight", "layer1.attn_norm", "blk.1.attn_output.weight", "layer1.attn_out", "layer1.post_attn_residual",
    ]  # fmt: skip


@each_view
def test_json_holds_the_view(view: View) -> None:
    document = json.loads(EXPORTERS["json"](view), parse_constant=pytest.fail)
    assert (document["format"], document["version"]) == ("aprgraph-graph", 1)
    assert [node["id"] for node in document["nodes"]] == [node.id for node in view.nodes]
    assert {node["group"] for node in document["nodes"]} - {None} == {group["id"] for group in document["groups"]}
    ids = {node["id"] for node in document["nodes"]}
    assert all(edge["source"] in ids and edge["target"] in ids for edge in document["edges"])


def test_json_of_one_node_in_full() -> None:
    graph = stack(2)
    document = json.loads(EXPORTERS["json"](make_view(graph, colouring=colours(graph))))
    assert document["nodes"][3] == {
        "id": "layers0-1.attn_out",
        "label": "attn_out",
        "op": "linear",
        "stage": "attn_out",
        "group": "layers0-1",
        "layers": [0, 2],
        "type": {"dtype": "f32", "dims": ["n", 32]},
        "attrs": {},
        "weights": [{"tensor": "blk.{layer}.attn_output.weight", "format": "q4_0", "dims": [32, 32]}],
        "tapped": False,
        "suspect": False,
        "names": ["layer0.attn_out", "layer1.attn_out"],
        "divergence": {"class": "IDENTICAL", "nmse": 0.0, "measure": "NMSE", "layer": 0, "note": None},
    }
    assert document["groups"] == [
        {
            "id": "layers0-1",
            "title": "layers 0-1 (x2)",
            "layers": [0, 2],
            "nodes": ["layers0-1.attn_norm", "layers0-1.attn_out", "layers0-1.post_attn_residual"],
        }
    ]


@each_view
def test_graphml_reads_back_in_networkx(view: View) -> None:
    text = EXPORTERS["graphml"](view)
    ET.fromstring(text)
    graph = nx.parse_graphml(text, force_multigraph=True)
    assert list(graph.nodes) == [node.id for node in view.nodes]
    assert graph.number_of_edges() == len(view.edges)
    for node in view.nodes:
        assert graph.nodes[node.id]["op"] == node.op
        assert graph.nodes[node.id]["tapped"] is node.tapped
        assert ("divergence" in graph.nodes[node.id]) is (node.divergence is not None)


# One statement of the DOT that we write: quoted strings hold no bare quote, and nothing else is between statements.
_STRING = r'"(?:[^"\\\n]|\\[^\n])*"'
_VALUE = rf"(?:{_STRING}|[A-Za-z0-9_.]+)"
_ATTRIBUTES = rf"(?: \[\w+={_VALUE}(?:, \w+={_VALUE})*\])?"
_DOT_LINE = re.compile(
    rf"digraph {_STRING} {{|\s*subgraph (?:{_STRING}|\w+) {{|\s*}}|\s*(?:\w+={_VALUE};\s*)+"
    rf"|\s*(?:{_STRING}|node|edge){_ATTRIBUTES};|\s*{_STRING} -> {_STRING}{_ATTRIBUTES};"
)


@each_view
def test_dot_is_well_formed(view: View) -> None:
    text = EXPORTERS["dot"](view)
    depth = 0
    for line in text.splitlines():
        assert _DOT_LINE.fullmatch(line), line
        outside = re.sub(_STRING, "", line)
        depth += outside.count("{") - outside.count("}")
    assert depth == 0
    defined = re.findall(rf"^\s*({_STRING}) \[label", text, re.MULTILINE)
    assert len(defined) == len(set(defined)) == len(view.nodes) + len(view.legend)
    assert text.count(" -> ") == len(view.edges)


def test_dot_has_a_cluster_per_group_and_marks_taps() -> None:
    text = EXPORTERS["dot"](views()["tapped"])
    assert re.findall(r'label="(layers? [^"]*)"', text) == ["layer 0", "layer 1", "layer 2", "layer 3"]
    assert text.count("peripheries=2") == 1
    assert re.search(r'^\s*"layer1\.attn_out" .*peripheries=2', text, re.MULTILINE)


_MERMAID_LINE = re.compile(
    r"flowchart TB|\s*\w+\[\"[^\"<>]*(?:<br/>[^\"<>]*)*\"\]|\s*subgraph \w+\[\"[^\"<>]*\"\]|\s*end"
    r"|\s*\w+ (?:-->|-\. next layer \.->) \w+|\s*classDef \w+ [\w:#,-]+|\s*class \w+(?:,\w+)* \w+"
)


@each_view
def test_mermaid_is_well_formed(view: View) -> None:
    head, _, body = EXPORTERS["mermaid"](view).partition("---\nflowchart")
    assert json.loads(head.removeprefix("---\ntitle: ")) == view.graph.name
    lines = ("flowchart" + body).splitlines()
    for line in lines:
        assert _MERMAID_LINE.fullmatch(line), line
    assert sum(" -->" in line or "-. " in line for line in lines) == len(view.edges)
    assert sum(line.strip() == "end" for line in lines) == len(view.groups) + bool(view.legend)
    assert sum(bool(re.match(r"\s*n\d+\[", line)) for line in lines) == len(view.nodes)


def test_mermaid_writes_special_characters_as_their_numbers() -> None:
    text = EXPORTERS["mermaid"](make_view(nasty()))
    assert "a#34;b#60;c#62;#38;#92;{layer}#35;;#96;<br/>]]#62;\ufffdé" in text


@pytest.mark.parametrize("name", ["dot", "mermaid", "json", "graphml", "svg"])
def test_colours_come_with_their_names_and_a_legend(name: str) -> None:
    graph = stack(3)
    text = EXPORTERS[name](make_view(graph, colouring=colours(graph, layer1_attn_out=("INTRODUCED", 0.36))))
    assert "INTRODUCED" in text
    assert "IDENTICAL" in text
    if name != "graphml":
        assert "diverges, though what it is computed from does not" in text
