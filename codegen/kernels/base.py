"""What a kernel is asked for: an op at given operand types and attributes. Equal requests share one kernel.

So do requests that differ in nothing but numbers which shape no code (``Op.numbers``). The kernel takes these when it is
called. So a model that is compiled with another epsilon or another base of RoPE has the same kernels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.ir import ACTIVATION_DTYPES, Attr, Graph, Node, TensorType
from aprgraph.graph.ops import OPS, is_computed, is_weight
from aprgraph.graph.ops.formula import Elementwise
from aprgraph.graph.text import print_request


@dataclass(frozen=True)
class KernelRequest:
    """An op at the types of its operands. ``symbol`` is the kernel's name in the library."""

    op: str
    operands: tuple[TensorType, ...]
    attrs: Mapping[str, Attr]
    result: TensorType

    @property
    def numbers(self) -> dict[str, int | float]:
        """What the kernel takes behind the operands, in order: the attributes of ``Op.numbers``, by name."""
        op = OPS.get(self.op)
        return {} if op is None else op.numbers_of(self.attrs)

    @property
    def text(self) -> str:
        """The request in the graph's textual form, ``numbers`` by name behind the operands; equal requests have equal text."""
        numbers = self.numbers
        attrs = {name: value for name, value in self.attrs.items() if name not in numbers}
        return print_request(self.op, [*self.operands, *numbers], attrs, self.result)

    @property
    def content(self) -> str:
        """All that the kernel depends on but the package: the text, and the formula of an op from a user's file.

        Two files may give one name to different formulas; a kernel of one must not be taken for the other's.
        """
        op = OPS.get(self.op)
        return f"{self.text} = {op.written(self.attrs)}" if isinstance(op, Elementwise) and op.is_own else self.text

    @property
    def symbol(self) -> str:
        """``<op>_<hash of the content>``."""
        return f"{self.op}_{hashlib.sha256(self.content.encode()).hexdigest()[:12]}"

    @property
    def needs_half_table(self) -> bool:
        """Whether the kernel takes the table of half-precision values, before its operands: if it decodes blocks."""
        return any(kind.dtype not in ACTIVATION_DTYPES and weight_format(kind).arrives_in_blocks for kind in self.operands)

    def attr_int(self, name: str) -> int:
        """An integer attribute (the verifier has checked it)."""
        value = self.attrs[name]
        assert isinstance(value, int)
        return value


#: Dims of a square of attention, [H, n, t].
_SQUARE_DIMS = 3


def generalised(kind: TensorType) -> TensorType:
    """An activation's type with its number of positions left open: kernels serve one position and many.

    The keys of a square of attention are t, also in a single pass, where there are as many as positions.
    """
    if kind.dtype in ACTIVATION_DTYPES and len(kind.dims) == _SQUARE_DIMS and kind.dims[1:] == ("n", "n"):
        return TensorType(kind.dtype, (kind.dims[0], "n", "t"))
    if kind.dtype in ACTIVATION_DTYPES and len(kind.dims) <= 2 and "t" not in kind.dims:
        return TensorType(kind.dtype, ("n", *kind.dims[1:]))
    return kind


def request_of(graph: Graph, node: Node) -> KernelRequest:
    """The kernel that computes ``node``; in a single pass, where t is n, that of several passes."""
    op, operands = OPS[node.op], graph.operands(node.name)
    types = [operand.type if is_weight(operand) else generalised(operand.type) for operand in operands]
    for name, axis in op.traits.attended.items():
        index = op.index(name)
        dims = types[index].dims
        types[index] = TensorType(types[index].dtype, (*dims[:axis], "t", *dims[axis + 1 :]))
    result = op.infer(types, node.attrs) if op.traits.attended else node.type
    return KernelRequest(node.op, tuple(types), dict(node.attrs), generalised(result))


def requests_of(graphs: Iterable[Graph]) -> dict[str, KernelRequest]:
    """Every kernel that ``graphs`` need, by symbol: one for equal layers, however many there are."""
    requests = (request_of(graph, node) for graph in graphs for node in graph if is_computed(node))
    return {request.symbol: request for request in requests}
