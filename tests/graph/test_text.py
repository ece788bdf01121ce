"""The textual form: it round-trips, and text that is not a graph is refused with its line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from aprgraph.graph import text as text_module
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph, Node, TensorType
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes import AllPositions, InsertTaps, Prune, run_passes
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.graph.text import parse_graph, print_graph, print_node
from aprgraph.graph.verify import verify
from tests.support.graphs import TOY, random_graph
from tests.support.tiny import FORMATS

Tiny = Callable[..., Path]


def assert_round_trip(graph: Graph) -> None:
    printed = print_graph(graph)
    parsed = parse_graph(printed)
    assert parsed == graph
    assert [node.name for node in parsed] == [node.name for node in graph]
    assert print_graph(parsed) == printed
    verify(parsed)


OPTIONS: list[dict[str, object]] = [
    *({"format": fmt, "layers": 1} for fmt in FORMATS),
    {"layers": 3, "tied": True},
    {"qkv_bias": True, "output_bias": True, "ffn_bias": True, "rope_freqs": True},
    {"heads": 3, "kv_heads": 1, "head_size": 10, "hidden": 36, "ffn": 20, "rope_dims": 6, "rope_linear_factor": 3.0, "eps": 1e-7},
    {"formats": {"token_embd.weight": "Q8_0", "blk.1.attn_q.weight": "Q4_0"}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_round_trip_of_tiny_models_before_and_after_passes(tiny_model: Tiny, options: dict[str, object]) -> None:
    graph = build_graph(load_model(tiny_model(**options)))
    assert_round_trip(graph)
    plan = parse_plan("all", "0..1")
    run_passes(graph, [AllPositions(), InsertTaps(plan), Prune()], lambda _name, after: assert_round_trip(after))


@pytest.mark.parametrize("seed", range(60))
def test_round_trip_of_random_graphs(seed: int) -> None:
    assert_round_trip(random_graph(seed))


def test_the_toy_prints_as_it_is_written() -> None:
    assert print_graph(parse_graph(TOY.strip())) == TOY.lstrip()


def test_attributes_of_every_kind() -> None:
    graph = Graph(
        "g", {"a": 1, "b": -1.5e-300, "c": True, "d": (1, 2), "e": (), "f": 'x\ny\u2028 } stage " %a', "g": 10**17, "h": "", "i": 1.0}
    )
    printed = print_graph(graph)
    assert printed.count("\n") == 2
    parsed = parse_graph(printed)
    assert parsed == graph
    assert [type(parsed.attrs[key]) for key in "abcdefghi"] == [int, float, bool, tuple, tuple, str, int, str, float]


def test_an_empty_graph() -> None:
    assert_round_trip(Graph("empty"))
    assert parse_graph("graph @x {\n}") == Graph("x")


def test_print_of_one_node() -> None:
    graph = parse_graph(TOY.strip())
    assert print_node(graph, graph["layer0.post_ffn_residual"]) == (
        "%layer0.post_ffn_residual = add(%layer0.embedding, %layer0.attn_norm) stage post_ffn_residual layer 0 : f32[n, 4]"
    )


def test_comments_blank_lines_and_indentation_do_not_matter() -> None:
    text = "graph @g {\n\n      // what a run is given\n %t = input : i32[n]  \n\n}\n\n"
    graph = Graph("g")
    graph.add(Node("t", "input", TensorType("i32", ("n",))))
    assert parse_graph(text) == graph


NODE = "expected '%name = op(%operands) {attributes} stage S layer N : dtype[dims]'"
MALFORMED: dict[str, tuple[str, int, str]] = {
    "nothing": ("", 1, "expected 'graph @name {attributes} {'"),
    "no header": ("%a = input : i32[n]", 1, "expected 'graph @name"),
    "header without a name": ("graph {\n}", 1, "expected 'graph @name"),
    "name of other letters": ("graph @modèle {\n}", 1, "expected 'graph @name"),
    "no end": ("graph @g {\n%a = input : i32[n]", 3, "expected '}': the end of the text"),
    "more after the end": ("graph @g {\n}\n\n}", 3, "expected nothing after the closing brace"),
    "not a node": ("graph @g {\nhello\n}", 2, NODE),
    "no type": ("graph @g {\n%a = input\n}", 2, NODE),
    "no percent": ("graph @g {\na = input : i32[n]\n}", 2, NODE),
    "operands not closed": ("graph @g {\n%a = silu(%b : i32[n]\n}", 2, NODE),
    "layer not a number": ("graph @g {\n%a = input layer x : i32[n]\n}", 2, NODE),
    "layer of other digits": ("graph @g {\n%a = input layer ٣ : i32[n]\n}", 2, NODE),
    "layer beyond 64 bits": (f"graph @g {{\n%a = input layer {'9' * 6000} : i32[n]\n}}", 2, NODE),
    "dims of two letters": ("graph @g {\n%a = input : i32[nn]\n}", 2, "expected dims such as [n, 576]"),
    "dims negative": ("graph @g {\n%a = input : i32[-1]\n}", 2, "expected dims such as [n, 576]"),
    "dims empty": ("graph @g {\n%a = input : i32[1,]\n}", 2, "expected dims such as [n, 576]"),
    "dims beyond 64 bits": (f"graph @g {{\n%a = input : i32[{'9' * 6000}]\n}}", 2, "expected dims such as [n, 576]"),
    "operand without percent": ("graph @g {\n%a = silu(b) : f32[n]\n}", 2, "expected names such as %layer0.attn_norm"),
    "operand empty": ("graph @g {\n%a = input : i32[n]\n%b = silu(%a, ) : i32[n]\n}", 3, "expected names such as %layer0.attn_norm"),
    "operand not defined": ("graph @g {\n%b = silu(%a) : f32[n]\n}", 2, "%b uses %a, which is not defined before it"),
    "operand defined later": (
        "graph @g {\n%b = silu(%a) : f32[n]\n%a = input : i32[n]\n}",
        2,
        "%b uses %a, which is not defined before it",
    ),
    "operand is the node": ("graph @g {\n%b = silu(%b) : f32[n]\n}", 2, "%b uses %b, which is not defined before it"),
    "name twice": ("graph @g {\n%a = input : i32[n]\n%a = input : i32[n]\n}", 3, "%a is defined twice"),
    "attribute without value": ("graph @g {a = } {\n}", 1, "attribute a has no JSON value"),
    "attribute without name": ("graph @g {= 1} {\n}", 1, "expected 'name = value' in the attributes"),
    "attribute twice": ("graph @g {a = 1, a = 2} {\n}", 1, "attribute a appears twice"),
    "attributes without comma": ("graph @g {a = 1 b = 2} {\n}", 1, "expected ', ' or '}' after the attribute a"),
    "attributes with a comma too many": ("graph @g {a = 1, } {\n}", 1, "expected 'name = value' in the attributes"),
    "attributes with commas alone": ("graph @g {, ,} {\n}", 1, "expected 'name = value' in the attributes"),
    "attributes with a brace too many": ("graph @g {a = 1}} {\n}", 1, "expected ', ' or '}' after the attribute a"),
    "attribute null": ("graph @g {a = null} {\n}", 1, "attribute a is neither text, number, truth value nor list of whole numbers"),
    "attribute object": ("graph @g {a = {}} {\n}", 1, "attribute a is neither"),
    "attribute list of text": ('graph @g {a = ["x"]} {\n}', 1, "attribute a is neither"),
    "attribute list of lists": ("graph @g {a = [[1]]} {\n}", 1, "attribute a is neither"),
    "attribute list of truth values": ("graph @g {a = [true]} {\n}", 1, "attribute a is neither"),
    "attribute of thousands of digits": (f"graph @g {{a = {'9' * 6000}}} {{\n}}", 1, "attribute a has no JSON value"),
    "attribute of nested lists": (f"graph @g {{a = {'[' * 100000}}} {{\n}}", 1, "attribute a has no JSON value"),
    "attribute text not closed": ('graph @g {a = "x} {\n}', 1, "attribute a has no JSON value"),
    "return of no name": ("graph @g {\n%a = input : i32[n]\nreturn a\n}", 3, "expected names such as %layer0.attn_norm"),
    "return of nothing": ("graph @g {\nreturn\n}", 2, NODE),
    "return twice": ("graph @g {\n%a = input : i32[n]\nreturn %a\nreturn %a\n}", 4, "expected one 'return'"),
}


@pytest.mark.contract("ERR-GRAPH-1")
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_text_is_refused_with_its_line(case: str) -> None:
    text, line, message = MALFORMED[case]
    with pytest.raises(GraphError) as caught:
        parse_graph(text)
    assert str(caught.value).startswith(f"graph text, line {line}: "), caught.value
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_message_quotes_the_line() -> None:
    with pytest.raises(GraphError, match=re.escape("'%b = silu(%a) : f32[n]'")):
        parse_graph("graph @g {\n   %b = silu(%a) : f32[n]\n}")


def mutated(text: str, generator: np.random.Generator) -> str:
    """``text`` after one to three random edits: of characters, of tokens, of lines."""
    odd = ["", *' \n{}()[]%,=:"\\\0é\u2028', "-1", "1e999", "NaN", "null", "true", "9" * 25, "[[", "stage "]
    for _ in range(generator.integers(1, 4)):
        kind = int(generator.integers(5))
        lines = text.split("\n")
        at, other = (int(i) for i in generator.integers(0, len(lines), 2))
        if kind == 0:
            position, length = int(generator.integers(len(text) + 1)), int(generator.integers(0, 6))
            text = text[:position] + str(generator.choice(odd)) + text[position + length :]
        elif kind == 1:
            lines[at], lines[other] = lines[other], lines[at]
            text = "\n".join(lines)
        elif kind == 2:
            text = "\n".join(lines[:at] + lines[at + 1 :])
        elif kind == 3:
            words = re.findall(r"\w+|\W", text)
            a, b = (int(i) for i in generator.integers(0, len(words), 2))
            words[a] = words[b]
            text = "".join(words)
        else:
            numbers = list(re.finditer(r"\d+", text))
            if numbers:
                match = numbers[int(generator.integers(len(numbers)))]
                text = text[: match.start()] + str(generator.choice(["0", "-1", "1", "2", "1.5", "9" * 19, "[]"])) + text[match.end() :]
    return text


@pytest.mark.contract("ERR-GRAPH-1")
def test_mutated_text_gives_a_graph_or_a_graph_error() -> None:
    """3,000 texts one to three edits from a good one: never another exception; what is accepted prints and parses back."""
    generator = np.random.default_rng(11)
    good = [TOY.strip(), print_graph(random_graph(3, length=14))]
    outcomes: Counter[str] = Counter()
    for index in range(3000):
        text = mutated(good[index % 2], generator)
        try:
            graph = parse_graph(text)
        except GraphError as error:
            outcomes["unparsed" if re.match(r"graph text, line \d+: ", str(error)) else "without a line"] += 1
            continue
        try:
            verify(graph)
        except GraphError:
            outcomes["invalid"] += 1
            continue
        assert parse_graph(print_graph(graph)) == graph
        outcomes["parsed"] += 1
    assert outcomes.keys() == {"parsed", "unparsed", "invalid"}
    assert min(outcomes.values()) > 50, outcomes


def test_the_example_in_the_documentation_parses() -> None:
    documentation = text_module.__doc__ or ""
    example = dedent(documentation[documentation.index("    graph @") : documentation.index("    }") + 6])
    verify(parse_graph(example))
