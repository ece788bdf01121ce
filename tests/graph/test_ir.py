"""The graph container."""

from __future__ import annotations

import networkx as nx
import pytest

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph, Node, TensorType, renamed
from aprgraph.graph.passes.prune import part_of

F32 = TensorType("f32", ("n", 4))


def node(name: str, **fields: object) -> Node:
    return renamed(Node(name, "silu", F32), **fields)


def diamond() -> Graph:
    """a -> b, c -> d(b, c, b); e alone."""
    graph = Graph("g", {"layers": 1})
    graph.add(node("a"))
    graph.add(node("c"), ["a"])
    graph.add(node("b"), ["a"])
    graph.add(node("d"), ["b", "c", "b"])
    graph.add(node("e"))
    graph.outputs = ("d",)
    return graph


def test_types_print_and_bind() -> None:
    kind = TensorType("q4_1", (8, "n", "t"))
    assert str(kind) == "q4_1[8, n, t]"
    assert kind.bind(n=3, t=5) == (8, 3, 5)
    assert TensorType("f32", ()).bind() == ()
    with pytest.raises(GraphError, match=r"q4_1\[8, n, t\] has the dimension 't', for which no value is given"):
        kind.bind(n=3)


def test_operands_keep_their_order_and_repetitions() -> None:
    graph = diamond()
    assert graph.operand_names("d") == ("b", "c", "b")
    assert [operand.name for operand in graph.operands("d")] == ["b", "c", "b"]
    assert graph.operand_names("a") == ()


def test_operands_beyond_the_tenth_keep_their_order() -> None:
    graph = Graph("g")
    names = [f"x{index}" for index in range(12)]
    for name in names:
        graph.add(node(name))
    graph.add(node("sum"), names[::-1])
    assert graph.operand_names("sum") == tuple(names[::-1])


def test_iteration_is_topological_with_ties_in_order_of_insertion() -> None:
    assert [item.name for item in diamond()] == ["a", "c", "b", "d", "e"]
    assert len(diamond()) == 5


def test_users_and_ancestors() -> None:
    graph = diamond()
    assert {user.name for user in graph.users("a")} == {"b", "c"}
    assert [user.name for user in graph.users("b")] == ["d"]
    assert graph.ancestors(["d"]) == {"a", "b", "c", "d"}
    assert graph.ancestors(["c", "e"]) == {"a", "c", "e"}
    assert graph.ancestors([]) == set()
    assert graph.ancestors(["d"]) == nx.ancestors(graph.networkx, "d") | {"d"}


def test_networkx_follows_what_is_added_and_replaced() -> None:
    graph = diamond()
    assert list(graph.networkx.edges(keys=True)) == [("a", "c", 0), ("a", "b", 0), ("c", "d", 1), ("b", "d", 0), ("b", "d", 2)]
    graph.add(node("f"), ["e"])
    graph.replace_node(node("e", op="gelu"))
    assert list(graph.networkx.successors("e")) == ["f"]
    assert graph.networkx.nodes["e"]["node"] == graph["e"] == node("e", op="gelu")
    with pytest.raises(GraphError, match="no node %z in graph @g"):
        graph.users("z")


def test_a_name_twice_and_an_operand_that_is_not_there() -> None:
    graph = diamond()
    with pytest.raises(GraphError, match="%a is defined twice"):
        graph.add(node("a"))
    with pytest.raises(GraphError, match="%f uses %z, which is not defined before it"):
        graph.add(node("f"), ["a", "z"])
    assert "f" not in graph


def test_a_node_cannot_use_itself() -> None:
    with pytest.raises(GraphError, match="%f uses %f, which is not defined before it"):
        diamond().add(node("f"), ["f"])


def test_names_that_are_not_there() -> None:
    with pytest.raises(GraphError, match="no node %z in graph @g"):
        diamond()["z"]
    with pytest.raises(GraphError, match="no node %z in graph @g"):
        diamond().ancestors(["z"])


def test_equality_sees_everything() -> None:
    assert diamond() == diamond() == diamond().copy()
    assert diamond() != "graph"
    for change in (
        lambda g: setattr(g, "name", "h"),
        lambda g: setattr(g, "outputs", ("e",)),
        lambda g: g.attrs.update(layers=2),
        lambda g: g.add(node("f")),
        lambda g: g.replace_node(node("e", op="add")),
        lambda g: g.replace_node(node("e", type=TensorType("f32", (4,)))),
        lambda g: g.replace_node(node("e", stage="attn_norm")),
        lambda g: g.replace_node(node("e", layer=1)),
        lambda g: g.replace_node(node("e", attrs={"eps": 1.0})),
    ):
        other = diamond()
        change(other)
        assert other != diamond()
    swapped = Graph("g", {"layers": 1})
    for name, operands in {"a": [], "c": ["a"], "b": ["a"], "d": ["c", "b", "b"], "e": []}.items():
        swapped.add(node(name), operands)
    swapped.outputs = ("d",)
    assert swapped != diamond()


def test_a_copy_is_independent() -> None:
    graph, copy = diamond(), diamond().copy()
    copy.add(node("f"), ["d"])
    copy.attrs["layers"] = 9
    copy.replace_node(node("a", stage="attn_norm"))
    assert graph == diamond()


def test_rebuild_keeps_a_subset_and_takes_replacements() -> None:
    graph = diamond()
    smaller = graph.rebuild([graph["a"], node("c", layer=3)], outputs=["c"])
    assert [item.name for item in smaller] == ["a", "c"]
    assert (smaller["c"].layer, smaller.operand_names("c"), smaller.outputs) == (3, ("a",), ("c",))
    with pytest.raises(GraphError, match="%d uses %b, which is not defined before it"):
        graph.rebuild([graph["a"], graph["c"], graph["d"]])


def test_stages_and_ops_are_found_in_execution_order_without_taps() -> None:
    graph = Graph("g")
    graph.add(node("x", stage="attn_norm", layer=0))
    graph.add(node("t", op="tap", stage="attn_norm", layer=0), ["x"])
    graph.add(node("y", stage="ffn_norm", layer=0), ["x"])
    assert [item.name for item in graph.staged()] == ["x", "y"]
    assert [item.name for item in graph.with_op("tap")] == ["t"]


@pytest.mark.parametrize(
    ("value", "getter", "expected"),
    [
        (True, "attr_int", "a whole number"),
        (1.0, "attr_int", "a whole number"),
        ("1", "attr_float", "a number"),
        (True, "attr_float", "a number"),
        (1, "attr_str", "text"),
    ],
)
def test_typed_attributes(value: object, getter: str, expected: str) -> None:
    item = node("x", attrs={"a": value, "i": 3, "f": 0.5, "s": "t"})
    assert (item.attr_int("i"), item.attr_float("i"), item.attr_float("f"), item.attr_str("s")) == (3, 3.0, 0.5, "t")
    assert (item.attr_int("i", 7), item.attr_int("other", 7), item.attr_float("other", 0.0)) == (3, 7, 0.0)
    with pytest.raises(GraphError, match=f"%x: attribute a is {value!r}, expected {expected}"):
        getattr(item, getter)("a")


def test_nodes_by_op_and_layer_are_those_of_now() -> None:
    """What was asked for before does not stay when a node comes or is replaced."""
    graph = diamond()
    assert [one.name for one in graph.with_op("silu")] == ["a", "c", "b", "d", "e"]
    assert graph.by_layer("silu")[None].name == "e"
    graph.add(node("f", layer=2), ["d"])
    graph.replace_node(node("e", op="relu"))
    graph.with_op("silu").clear()  # the caller's own
    assert [one.name for one in graph.with_op("silu")] == ["a", "c", "b", "d", "f"]
    assert {layer: one.name for layer, one in graph.by_layer("silu").items()} == {None: "d", 2: "f"}
    assert [one.name for one in graph.with_op("relu")] == ["e"]


def test_a_part_is_made_without_a_look_at_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay makes one of every stage: of a thousand layers, a look at each node each time took minutes."""
    graph = diamond()
    with monkeypatch.context() as patch:
        patch.setattr(Graph, "__iter__", lambda _: pytest.fail("every node was looked at"))
        part = part_of(graph, ("b",))
    assert [one.name for one in part] == ["a", "b"]
    assert part.outputs == ("b",)
