"""Elementwise ops: what a formula declares, how a user's file brings one, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.registry import elementwise
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.graph.verify import verify
from tests.support.own_ops import own_ops

X = TensorType("f32", ("n", 8))
GRAPH = """\
graph @toy {
  %tokens = input : i32[n]
  %table = weight {dims = [9, 8], dtype = "f32", tensor = "table"} : f32[9, 8]
  %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 8]
  %y = squashed(%x) {limit = 3.0} : f32[n, 8]
  return %y
}
"""


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    with own_ops():
        yield


def request(op: str, *, limit: float = 3.0) -> KernelRequest:
    return KernelRequest(op, (X,), {"limit": limit}, X)


def test_operands_attributes_and_defaults_come_from_the_parameters() -> None:
    @elementwise("blended", summary="A blend.")
    def blended(m, a, b, *, share: float, steps: int = 2, is_sharp: bool = False):
        return m.maximum(a * share, b) if is_sharp else a * share + b * steps

    assert blended.operands == ("a", "b")
    assert dict(blended.attrs) == {"share": float, "steps": int, "is_sharp": bool}
    assert dict(blended.defaults) == {"steps": 2, "is_sharp": False}
    assert OPS["blended"] is blended
    assert blended.reference([np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]])], {"share": 0.5}).tolist() == [[20.5, 41.0]]
    assert blended.reference([np.array([[9.0]]), np.array([[1.0]])], {"share": 0.5, "is_sharp": True}).tolist() == [[4.5]]


def test_without_a_summary_the_formula_stands_for_it() -> None:
    op = elementwise("capped", lambda m, x, *, cap: m.tanh(x / cap) * cap)
    assert op.summary == "(tanh((x / cap)) * cap)"
    assert op.written({"cap": 50.0}) == "(tanh((x / 50.0)) * 50.0)"


def test_a_graph_that_uses_it_is_parsed_verified_printed_and_computed() -> None:
    elementwise("squashed", lambda m, x, *, limit: m.tanh(x / limit) * limit)
    graph = parse_graph(GRAPH)
    verify(graph)
    assert print_graph(graph) == GRAPH
    value = OPS["squashed"].reference([np.array([[-6.0, 0.0, 1.5]])], {"limit": 3.0})
    np.testing.assert_allclose(value, [[3 * math.tanh(-2), 0, 3 * math.tanh(0.5)]], rtol=1e-15)


def test_a_graph_with_an_op_that_nobody_brought() -> None:
    with pytest.raises(
        GraphError, match="unknown op 'squashed'; expected one of .*; if a family's file brought it, give that file as well"
    ):
        verify(parse_graph(GRAPH))


def test_attributes_are_checked() -> None:
    elementwise("squashed", lambda m, x, *, limit: m.tanh(x / limit) * limit)
    with pytest.raises(GraphError, match="squashed: attribute limit is 3, expected float"):
        verify(parse_graph(GRAPH.replace("3.0", "3")))
    with pytest.raises(GraphError, match=r"squashed has the attributes \['cap'\], expected limit"):
        verify(parse_graph(GRAPH.replace("limit", "cap")))


def test_the_same_op_may_be_declared_again() -> None:
    first = elementwise("squashed", lambda m, x, *, limit: m.tanh(x / limit) * limit)
    assert elementwise("squashed", lambda arithmetic, x, *, limit: arithmetic.tanh(x / limit) * limit) is first


@pytest.mark.parametrize(
    "formula",
    [
        lambda m, x, *, limit: m.tanh(x * limit) * limit,
        lambda m, y, *, limit: m.tanh(y / limit) * limit,
        lambda m, x, *, limit=1.0: m.tanh(x / limit) * limit,
        lambda m, x, *, cap: m.tanh(x / cap) * cap,
    ],
    ids=["formula", "operand", "default", "attribute"],
)
def test_another_op_of_that_name_is_an_error_that_names_both_places(formula: object) -> None:
    elementwise("squashed", lambda m, x, *, limit: m.tanh(x / limit) * limit)
    message = r"two ops are called 'squashed': \S*test_elementwise\.py:\d+ and \S*test_elementwise\.py:\d+; expected one"
    with pytest.raises(GraphError, match=message):
        elementwise("squashed", formula)


def test_names_of_the_package_are_taken() -> None:
    with pytest.raises(GraphError, match="two ops are called 'linear': .* and one of aprgraph's own"):
        elementwise("linear", lambda m, x: x * 2)
    with pytest.raises(GraphError, match=r"two ops are called 'mul': .* and \S*elementwise\.py:\d+"):
        elementwise("mul", lambda m, a, b: a * b * 2)
    assert elementwise("mul", lambda m, a, b: a * b) is OPS["mul"]


@pytest.mark.parametrize("name", ["Soft", "soft-cap", "", "soft cap", "ü"])
def test_a_name_that_no_graph_can_hold(name: str) -> None:
    with pytest.raises(GraphError, match="expected small letters, digits and underscores"):
        elementwise(name, lambda m, x: x)


BAD = {
    "branch": (lambda m, x: x if x > 0 else 0 * x, r"cannot branch on an element: use m\.where"),
    "foreign function": (lambda m, x: math.exp(x), "cannot be written as a formula: must be real number"),
    "foreign array": (lambda m, x: x + np.zeros(3), "made of its operands and numbers, not of"),
    "unknown function": (lambda m, x: m.log(x), "has no attribute 'log'; expected .* exp, tanh, sqrt, minimum, maximum, where, fma"),
    "power": (lambda m, x: x**2, "unsupported operand"),
    "no operand": (lambda m: 1.0, "expected a function of the arithmetic, then operands, then attributes"),
    "star": (lambda m, *x: x, "expected a function of the arithmetic, then operands, then attributes"),
    "operand with a default": (lambda m, x, y=1: x, "expected a function of the arithmetic, then operands, then attributes"),
}


@pytest.mark.parametrize(("formula", "message"), BAD.values(), ids=BAD)
def test_what_is_no_formula(formula: object, message: str) -> None:
    with pytest.raises(GraphError, match=rf"the elementwise op 'bad' \(\S*test_elementwise\.py:\d+\).*{message}"):
        elementwise("bad", formula)
    assert "bad" not in OPS


def test_an_attribute_of_another_kind() -> None:
    def formula(m: object, x: object, *, name: str) -> object:
        return x

    with pytest.raises(GraphError, match="attribute name is str, expected float, int or bool"):
        elementwise("bad", formula)


def test_one_value_for_each_row() -> None:
    op = elementwise("shifted", lambda m, x, offsets: x + offsets, per_row=["offsets"])
    assert op.infer([X, TensorType("f32", ("n", 1))], {}) == X
    with pytest.raises(GraphError, match=r"the offsets are f32\[n, 8\], but x is f32\[n, 8\]: expected one offset a row"):
        op.infer([X, X], {})
    with pytest.raises(GraphError, match="per_row names x, expected operands after the first"):
        elementwise("bad", lambda m, x, y: x + y, per_row=["x"])


@pytest.mark.contract("FORMULAS-NAMES-1")
def test_kernels_of_two_formulas_of_one_name_are_told_apart() -> None:
    """An artifact, and the cache of kernels, outlive the process that knows the formula."""
    contents = set()
    for factor in (1.0, 2.0):
        with own_ops():
            elementwise("squashed", lambda m, x, *, limit: m.tanh(x / limit) * limit * factor)  # noqa: B023
            contents.add((request("squashed").content, request("squashed").symbol))
            contents.add((request("squashed", limit=4.0).content, request("squashed", limit=4.0).symbol))
    assert len({content for content, _ in contents}) == len({symbol for _, symbol in contents}) == 4
    assert "squashed(f32[n, 8]) {limit = 3.0} : f32[n, 8] = ((tanh((x / 3.0)) * 3.0) * 2.0)" in {content for content, _ in contents}


def test_the_package_s_own_are_named_by_what_is_asked_for_alone() -> None:
    asked = KernelRequest("silu", (X,), {}, X)
    assert asked.content == asked.text == "silu(f32[n, 8]) : f32[n, 8]"
