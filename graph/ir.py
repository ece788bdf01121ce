"""The graph: nodes with operands, types, and, where they have one, a stage and a layer.

networkx holds the structure (a MultiDiGraph with one edge per operand, keyed by operand index), so that topological
order, ancestors and cuts come from the library. Nodes are immutable; passes build new graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx

from aprgraph.graph.errors import GraphError

#: A dimension: a number, or a symbol ("n" positions in this pass, "t" positions attended to).
Dim = int | str
#: Element types of computed values; weights have their block format's name.
ACTIVATION_DTYPES = ("f32", "i32")
#: What an attribute may hold: the values that JSON can print and parse back.
Attr = bool | int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class TensorType:
    """Element type and dims, row-major, outermost first.

    ``dtype`` is "f32" or "i32" for activations; a weight has its block format's name in lower case ("q4_1"), and its
    dims count elements, not bytes.
    """

    dtype: str
    dims: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(dim) for dim in self.dims)}]"

    def bind(self, **symbols: int) -> tuple[int, ...]:
        """The dims as numbers, with ``n`` and ``t`` given. Raises GraphError for a symbol without a value."""
        shape: list[int] = []
        for dim in self.dims:
            if isinstance(dim, str):
                if dim not in symbols:
                    raise GraphError(f"{self} has the dimension {dim!r}, for which no value is given")
                shape.append(symbols[dim])
            else:
                shape.append(dim)
        return tuple(shape)


@dataclass(frozen=True)
class Node:
    """One value of the graph and the op that makes it; ``type`` is the type of its one result."""

    name: str
    op: str
    type: TensorType
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    stage: str | None = None
    layer: int | None = None

    def attr_int(self, name: str) -> int:
        """The integer attribute ``name``."""
        value = self.attrs[name]
        if isinstance(value, bool) or not isinstance(value, int):
            raise GraphError(f"%{self.name}: attribute {name} is {value!r}, expected a whole number")
        return value

    def attr_float(self, name: str) -> float:
        """The number attribute ``name``."""
        value = self.attrs[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise GraphError(f"%{self.name}: attribute {name} is {value!r}, expected a number")
        return float(value)

    def attr_str(self, name: str) -> str:
        """The text attribute ``name``."""
        value = self.attrs[name]
        if not isinstance(value, str):
            raise GraphError(f"%{self.name}: attribute {name} is {value!r}, expected text")
        return value


class Graph:
    """A computation graph. Iteration gives nodes in execution order, which is the order they were added in."""

    def __init__(self, name: str, attrs: Mapping[str, Attr] | None = None) -> None:
        self.name = name
        self.attrs: dict[str, Attr] = dict(attrs or {})
        self.outputs: tuple[str, ...] = ()
        self._graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()

    # -- building -----------------------------------------------------------------------------------------------------

    def add(self, node: Node, operands: Sequence[str] = ()) -> Node:
        """Add ``node`` with the values ``operands`` (names of nodes that are in the graph). Returns the node."""
        if node.name in self:
            raise GraphError(f"%{node.name} is defined twice")
        for operand in operands:
            if operand not in self:
                raise GraphError(f"%{node.name} uses %{operand}, which is not defined before it")
        self._graph.add_node(node.name, node=node, operands=tuple(operands))
        for index, operand in enumerate(operands):
            self._graph.add_edge(operand, node.name, key=index)
        return node

    def replace_node(self, node: Node) -> None:
        """Put ``node`` in place of the node of its name; operands and users stay."""
        self._graph.nodes[node.name]["node"] = node

    def rebuild(self, nodes: Iterable[Node], outputs: Sequence[str] | None = None) -> Graph:
        """A new graph of ``nodes`` (a subset of this graph's, or replacements of the same names), with their operands."""
        result = Graph(self.name, self.attrs)
        for node in nodes:
            result.add(node, self.operand_names(node.name))
        result.outputs = tuple(outputs if outputs is not None else self.outputs)
        return result

    def copy(self) -> Graph:
        """An independent copy; nodes are shared, being immutable."""
        return self.rebuild(self)

    # -- reading ------------------------------------------------------------------------------------------------------

    def __contains__(self, name: object) -> bool:
        return name in self._graph

    def __len__(self) -> int:
        return self._graph.number_of_nodes()

    def __getitem__(self, name: str) -> Node:
        try:
            node: Node = self._graph.nodes[name]["node"]
        except KeyError:
            raise GraphError(f"no node %{name} in graph @{self.name}") from None
        return node

    def __iter__(self) -> Iterator[Node]:
        # A node is added after its operands, and networkx keeps that order: it is a topological one.
        for name in self._graph:
            yield self[name]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        mine, theirs = list(self), list(other)
        return (self.name, self.attrs, self.outputs, mine) == (other.name, other.attrs, other.outputs, theirs) and all(
            self.operand_names(node.name) == other.operand_names(node.name) for node in mine
        )

    __hash__ = None  # type: ignore[assignment]  # a mutable container

    def operand_names(self, name: str) -> tuple[str, ...]:
        """Names of the operands of ``name``, in operand order."""
        self[name]  # raises if it is not there
        operands: tuple[str, ...] = self._graph.nodes[name]["operands"]
        return operands

    def operands(self, name: str) -> tuple[Node, ...]:
        """The operands of ``name``, in operand order."""
        return tuple(self[operand] for operand in self.operand_names(name))

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that use ``name``, each once."""
        return tuple(self[user] for user in self._graph.successors(name))

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """Names of everything that ``names`` are computed from, themselves included."""
        found: set[str] = set()
        waiting = [self[name].name for name in names]
        while waiting:  # one walk for all names; nx.ancestors would walk once for each
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self._graph.predecessors(name))
        return found

    def with_op(self, op: str) -> list[Node]:
        """The nodes of one op, in execution order."""
        return [node for node in self if node.op == op]

    def staged(self) -> list[Node]:
        """The nodes that are a stage of the model, in execution order (taps are not stages)."""
        # By name: what ops are is declared above this module, in graph/ops.
        return [node for node in self if node.stage is not None and node.op != "tap"]

    @property
    def networkx(self) -> nx.MultiDiGraph[str]:
        """The networkx graph underneath: nodes carry ``node``, edges are keyed by operand index. Do not change it."""
        return self._graph


def renamed(node: Node, **changes: object) -> Node:
    """A copy of ``node`` with some fields changed."""
    return replace(node, **changes)  # type: ignore[arg-type]
