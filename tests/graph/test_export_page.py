"""The page of a graph, and what Model Explorer opens."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aprgraph.graph.export.formats import EXPORTERS
from aprgraph.graph.export.html_page import render
from aprgraph.graph.export.model_explorer import export_node_data
from aprgraph.graph.export.view import make_view
from tests.graph.test_export_formats import nasty
from tests.graph.test_export_view import colours, stack
from tests.support.cli import fails, run_cli

_VOID = {"meta", "input"}


class _Page(HTMLParser):
    """The elements of a page, each closed, and ids, each once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.entries: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.entries += [values["data-node"] or ""] if "data-node" in values else []
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("called", ["stack", "nasty"])
def test_the_page_is_whole_and_opens_offline(called: str) -> None:
    graph = stack(3) if called == "stack" else nasty()
    view = make_view(graph)
    text = EXPORTERS["html"](view)
    page = _Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert sorted(page.entries) == sorted(node.id for node in view.nodes)
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert all(f"node-{node.id}" in page.ids for node in view.nodes)


def test_two_graphs_say_at_each_node_what_differs() -> None:
    text = render([make_view(stack(3)), make_view(stack(4))], ["ours", "theirs"])
    page = _Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert "<h2>ours</h2>" in text
    assert "<h2>theirs</h2>" in text
    assert "not as in the other graph" in text
    same = render([make_view(stack(3)), make_view(stack(3))])
    assert same.count("0 nodes not as in the other graph") == 2


def test_model_explorer_gets_a_graph_and_its_errors() -> None:
    graph = stack(3)
    view = make_view(graph, colouring=colours(graph, layer1_attn_out=("INTRODUCED", 0.36)))
    collection = json.loads(EXPORTERS["model-explorer"](view))
    assert (collection["label"], [one["id"] for one in collection["graphs"]]) == (graph.name, [graph.name])
    nodes = {node["id"]: node for node in collection["graphs"][0]["nodes"]}
    assert list(nodes) == [node.id for node in view.nodes]
    for node in nodes.values():
        assert all(edge["sourceNodeId"] in nodes for edge in node["incomingEdges"])
        assert all(isinstance(one["value"], str) for one in node["attrs"])
    assert {node["namespace"] for node in nodes.values()} == {"", *(group.title for group in view.groups)}
    data = json.loads(export_node_data(view))
    assert data[graph.name]["results"]["layer1.attn_out"] == {"value": 0.36, "bgColor": "#fbd3bd"}
    assert set(data[graph.name]["results"]) <= set(nodes)


def test_model_explorer_marks_suspects_and_shows_few_digits() -> None:
    """As it was seen there: its labels and borders are all that tells a suspect, and its table has room for few digits."""
    graph = stack(3)
    view = make_view(graph, colouring=colours(graph, layer1_attn_out=("INTRODUCED", 0.012345678)), suspects=["layer0.attn_norm"])
    nodes = {node["id"]: node for node in json.loads(EXPORTERS["model-explorer"](view))["graphs"][0]["nodes"]}
    assert nodes["layer0.attn_norm"]["label"] == "attn_norm (suspect)"
    assert nodes["layer0.attn_norm"]["style"]["borderColor"] == "#a83f00"
    assert {"key": "suspect", "value": "can explain all that is wrong"} in nodes["layer0.attn_norm"]["attrs"]
    assert all("suspect" not in node["label"] for name, node in nodes.items() if name != "layer0.attn_norm")
    assert json.loads(export_node_data(view))[graph.name]["results"]["layer1.attn_out"]["value"] == 0.01235


def test_commands(tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, other = tiny_model(), "llama.rope.freq_base=float:77"
    for name, options in (("a", []), ("b", ["--override-kv", other])):
        run = ("run", model, "--tokens", "1,2,3", "--taps", "all", "--layers", "all", "--target", "reference", "-o", name)
        assert run_cli(*run, *options).code == 0
    done = run_cli("graph", "a", "--html", "one.html", "--beside", "b")
    assert (done.code, done.err) == (0, "")
    page = (tmp_path / "one.html").read_text()
    assert "base is 10000.0, there 77.0" in page
    assert '<th scope="col">rms</th>' in page
    diff = ("graph", "--diff", "a", "b", "-f", "model-explorer", "-o", "g.json", "--node-data", "n.json")
    assert run_cli(*diff).code == 0
    assert run_cli(*diff).code == 0  # what was written may be replaced
    assert set(json.loads((tmp_path / "n.json").read_text())) == {
        one["id"] for one in json.loads((tmp_path / "g.json").read_text())["graphs"]
    }
    assert run_cli("graph", "--diff", "a", "b", "-o", "where.html").code == 0
    assert '<th scope="col">NMSE</th>' in (tmp_path / "where.html").read_text()
    assert "--beside b: two graphs stand side by side in a page alone" in fails("graph", "a", "--beside", "b")
    assert "--node-data n.json: it holds the errors of two traces" in fails("graph", "a", "--node-data", "n.json")
    assert "leave out -o" in fails("graph", "a", "--html", "x.html", "-o", "y.svg")
    (tmp_path / "mine.html").write_text("mine")
    assert "mine.html: " in fails("graph", "a", "--html", "mine.html")
