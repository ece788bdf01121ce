"""The graph: nodes with operands, types, and, where they have one, a stage and a layer.

Topological order, cuts and layouts come from networkx: ``Graph.networkx`` is a MultiDiGraph with one edge per operand, keyed by
operand index. It is built when it is first asked for, since most graphs are only read in order, or are one step of a pass.
Nodes are immutable; passes build new graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from aprgraph.graph.errors import GraphError, shown
from aprgraph.graph.shown import Shown

if TYPE_CHECKING:
    import networkx as nx

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

    def _attr(self, name: str) -> Attr:
        if name not in self.attrs:
            raise GraphError(f"%{self.name}: {self.op} needs the attribute {name}")
        return self.attrs[name]

    def attr_int(self, name: str, default: int | None = None) -> int:
        """The integer attribute ``name``, or ``default`` where the node has none. Raises GraphError."""
        value = self._attr(name) if default is None else self.attrs.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise GraphError(f"%{self.name}: attribute {name} is {shown(value)}, expected a whole number")
        return value

    def attr_float(self, name: str, default: float | None = None) -> float:
        """The number attribute ``name``, or ``default`` where the node has none. Raises GraphError."""
        value = self._attr(name) if default is None else self.attrs.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise GraphError(f"%{self.name}: attribute {name} is {shown(value)}, expected a number")
        return float(value)

    def attr_str(self, name: str) -> str:
        """The text attribute ``name``."""
        value = self._attr(name)
        if not isinstance(value, str):
            raise GraphError(f"%{self.name}: attribute {name} is {shown(value)}, expected text")
        return value


class Graph(Shown):
    """A computation graph. Iteration gives nodes in execution order, which is the order they were added in."""

    def __init__(self, name: str, attrs: Mapping[str, Attr] | None = None) -> None:
        self.name = name
        self.attrs: dict[str, Attr] = dict(attrs or {})
        self.outputs: tuple[str, ...] = ()
        self._nodes: dict[str, Node] = {}
        self._operands: dict[str, tuple[str, ...]] = {}
        self._users: dict[str, list[str]] = {}
        #: Each node's place in execution order.
        self._order: dict[str, int] = {}
        #: The nodes of each op that was asked for.
        self._by_op: dict[str, list[Node]] = {}
        self._by_layer: dict[str, dict[int | None, Node]] = {}
        self._networkx: nx.MultiDiGraph[str] | None = None
        #: Whether the verifier has found every node well-formed; a change of the nodes unsets it.
        self.verified = False

    # -- building -----------------------------------------------------------------------------------------------------

    def add(self, node: Node, operands: Sequence[str] = ()) -> Node:
        """Add ``node`` with the values ``operands`` (names of nodes that are in the graph). Returns the node."""
        if node.name in self._nodes:
            raise GraphError(f"%{node.name} is defined twice")
        for operand in operands:
            if operand not in self._nodes:
                raise GraphError(f"%{node.name} uses %{operand}, which is not defined before it")
        self._order[node.name] = len(self._nodes)
        self._nodes[node.name] = node
        self._operands[node.name] = tuple(operands)
        self._users[node.name] = []
        for operand in dict.fromkeys(operands):
            self._users[operand].append(node.name)
        self._changed()
        return node

    def replace_node(self, node: Node) -> None:
        """Put ``node`` in place of the node of its name; operands and users stay."""
        self[node.name]  # raises if it is not there
        self._nodes[node.name] = node
        self._changed()

    def _changed(self) -> None:
        self._networkx, self.verified = None, False
        self._by_op.clear()
        self._by_layer.clear()

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
        return name in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, name: str) -> Node:
        try:
            return self._nodes[name]
        except KeyError:
            raise GraphError(f"no node %{name} in graph @{self.name}") from None

    def __iter__(self) -> Iterator[Node]:
        # A node is added after its operands: the order is a topological one.
        return iter(self._nodes.values())

    def __repr__(self) -> str:
        return f"<Graph @{self.name}: {len(self)} nodes, {len(self.staged())} of them stages>"

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
        return self._operands[name]

    def operands(self, name: str) -> tuple[Node, ...]:
        """The operands of ``name``, in operand order."""
        return tuple(self[operand] for operand in self.operand_names(name))

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that use ``name``, each once."""
        self[name]  # raises if it is not there
        return tuple(self._nodes[user] for user in self._users[name])

    def unchanged_from(self, earlier: Graph) -> set[str]:
        """Names of the nodes that ``earlier`` has too: the same objects, and so are their operands."""
        same = {name for name, node in self._nodes.items() if earlier._nodes.get(name) is node}
        return {name for name in same if self._operands[name] == earlier._operands[name] and same.issuperset(self._operands[name])}

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """Names of everything that ``names`` are computed from, themselves included."""
        found: set[str] = set()
        waiting = [self[name].name for name in names]
        while waiting:  # one walk for all names; nx.ancestors would walk once for each
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self._operands[name])
        return found

    def in_order(self, names: Iterable[str]) -> list[Node]:
        """The nodes of these names, in execution order; takes no longer for being a part of a large graph."""
        return [self._nodes[name] for name in sorted(names, key=self._order.__getitem__)]

    def with_op(self, op: str) -> list[Node]:
        """The nodes of one op, in execution order."""
        if op not in self._by_op:
            self._by_op[op] = [node for node in self if node.op == op]
        return list(self._by_op[op])

    def by_layer(self, op: str) -> Mapping[int | None, Node]:
        """By layer, the last node of one op; not to be changed."""
        if op not in self._by_layer:
            self._by_layer[op] = {node.layer: node for node in self.with_op(op)}
        return self._by_layer[op]

    def staged(self) -> list[Node]:
        """The nodes that are a stage of the model, in execution order (taps are not stages)."""
        # By name: what ops are is declared above this module, in graph/ops.
        return [node for node in self if node.stage is not None and node.op != "tap"]

    @property
    def networkx(self) -> nx.MultiDiGraph[str]:
        """The graph for networkx: nodes carry ``node``, edges are keyed by operand index. Do not change it."""
        if self._networkx is None:
            import networkx as nx  # noqa: PLC0415 -- costs a fifth of a second, and a run asks for no layout

            self._networkx = nx.MultiDiGraph()
            for node in self:
                self._networkx.add_node(node.name, node=node)
                for index, operand in enumerate(self._operands[node.name]):
                    self._networkx.add_edge(operand, node.name, key=index)
        return self._networkx


def renamed(node: Node, **changes: object) -> Node:
    """A copy of ``node`` with some fields changed."""
    return replace(node, **changes)  # type: ignore[arg-type]
