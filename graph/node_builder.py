"""Nodes and weights of a graph that is being written: what the builder's stages (builder.py) are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from aprgraph.graph.errors import GraphError, UnsupportedModelError, shown
from aprgraph.graph.families.base import Family
from aprgraph.graph.heads import Heads
from aprgraph.graph.ir import Attr, Graph, Node, TensorType
from aprgraph.graph.ops import OPS, Op
from aprgraph.graph.sources.source import TensorInfo
from aprgraph.graph.stage_declarations import declare_stages
from aprgraph.graph.stage_suggestions import did_you_mean
from aprgraph.graph.stages import STAGE_BY_NAME

#: Dims of a weight that holds all experts.
_EXPERT_DIMS = 3


class Tensors(Protocol):
    """The tensors that a graph is built for: those of a model file, or any that are asked for (graph/outline.py)."""

    def has(self, name: str) -> bool:
        """Whether there is the tensor ``name``."""

    def tensor(self, name: str, dims: tuple[int, ...] | None = None) -> TensorInfo:
        """The tensor ``name``, outermost dimension first. Raises ModelError if it is missing or has other ``dims``."""

    def lacks(self, names: Sequence[str], beside: str) -> None:
        """Raise ModelError: the tensor ``beside`` is there, but ``names``, which belong with it, are missing."""

    @property
    def vocabulary(self) -> int:
        """The number of token ids."""


class NodeBuilder:
    """Adds nodes in execution order, and weights where nodes read them. The node of a stage bears the name of the stage.

    Methods take and return names of nodes. Inside ``layers``, nodes belong to the current layer and read its weights.
    Methods raise ModelError for a tensor that is missing, or whose dims are not those that the family's numbers give.
    """

    def __init__(self, tensors: Tensors, family: Family, name: str) -> None:
        self.tensors, self.family = tensors, family
        self.layer: int | None = None
        whole: dict[str, Attr] = {"architecture": family.architecture, "layers": family.layers, "context": family.context}
        self.graph = Graph(name, {**whole, **declare_stages(family.stages)})
        self.vocabulary = tensors.vocabulary
        #: The slots whose tensors were asked for, there or not.
        self.asked: set[str] = set()
        #: By tensor name: the slot, the kind ("weight", "bias" or "scale"), and the layer (None outside the layers).
        self.slots: dict[str, tuple[str, str, int | None]] = {}
        self._add("tokens", "input")
        self._add("positions", "input")

    def layers(self, count: int) -> Iterator[int]:
        """Iterate over ``count`` layers. Nodes that are added meanwhile belong to the layer of the iteration."""
        for self.layer in range(count):
            yield self.layer
        self.layer = None

    # -- ops ----------------------------------------------------------------------------------------------------------

    def apply(self, stage: str, op: str | Op, *operands: str | Heads, **attrs: Attr) -> str:
        """Add the node of a stage. ``op`` is an op, or the name of one in ``OPS``."""
        require_stage(stage)
        name = stage if self.layer is None else f"layer{self.layer}.{stage}"
        return self._add(name, op, operands, attrs, stage, self.layer)

    def inner(self, name: str, op: str | Op, *operands: str | Heads, **attrs: Attr) -> str:
        """Add a node that is not a stage, and so cannot be tapped."""
        return self._add(name if self.layer is None else f"layer{self.layer}.{name}", op, operands, attrs, None, self.layer)

    def _add(
        self,
        name: str,
        op: str | Op,
        operands: Sequence[str | Heads] = (),
        attrs: Mapping[str, Attr] | None = None,
        stage: str | None = None,
        layer: int | None = None,
    ) -> str:
        """Add a node with the type that its op infers, without the attributes that have their default."""
        names = [self.columns(operand) if isinstance(operand, Heads) else operand for operand in operands]
        try:
            op = op if isinstance(op, Op) else _op(op)
            given = {key: value for key, value in (attrs or {}).items() if key not in op.defaults or value != op.defaults[key]}
            result = op.result([self._type(operand) for operand in names], given)
        except GraphError as error:
            raise GraphError(f"%{name}: {error}") from None
        self.graph.add(Node(name, op.name, result, given, stage, layer), names)
        return name

    def _type(self, x: str) -> TensorType:
        """The type of a node. Raises GraphError for what is no node's name, such as None from a method without a return."""
        if not isinstance(x, str):
            raise GraphError(f"an operand is {shown(x)}, expected the name of a node, or heads; is there a return missing in a method?")
        return self.graph[x].type

    def width(self, x: str) -> int:
        """How many columns the node ``x`` has."""
        columns = self._type(x).dims[-1]
        assert isinstance(columns, int)
        return columns

    def heads(self, name: str, value: str, count: int, size: int, *, start: int = 0) -> Heads:
        """The columns of the node ``value`` from ``start`` on as heads. ``name`` is what they are, "q", "k" or "v"."""
        return Heads(value, start, count, size, name)

    def columns(self, x: Heads) -> str:
        """A node that holds the heads ``x`` and nothing else."""
        if x.start == 0 and self.width(x.value) == x.columns:
            return x.value
        return self.inner(x.name, "columns", x.value, start=x.start, stop=x.start + x.columns)

    # -- weights ------------------------------------------------------------------------------------------------------

    def tensor_name(self, slot: str, what: str = "weight") -> str:
        """The name of a slot's tensor in the GGUF file. ``what`` is "weight", "bias" or "scale"."""
        self.asked.add(slot)
        name = self.family.tensor_name(slot, what)
        return name if self.layer is None else f"blk.{self.layer}.{name}"

    def has(self, slot: str, what: str = "weight") -> bool:
        """Whether the file has a slot's tensor."""
        return self.tensors.has(self.tensor_name(slot, what))

    def weight(self, slot: str, *dims: int, what: str = "weight") -> str:
        """The node of a slot's tensor, which has ``dims`` (outermost first). It is added at its first use."""
        name = self.tensor_name(slot, what)
        info = self.tensors.tensor(name, dims)
        if name not in self.graph:
            dtype = info.format.name.lower()
            attrs: dict[str, Attr] = {"tensor": name, "dtype": dtype, "dims": dims}
            if what == "weight" and (scale := self._scale_of(slot, info, dims)):
                attrs["scale"] = scale
            if info.layout:
                attrs["layout"] = info.layout
            self.graph.add(Node(name, "weight", TensorType(info.layout or dtype, dims), attrs))
            self.slots[name] = (slot, what, self.layer)
        return name

    def row(self, slot: str, columns: int) -> str:
        """The node of a weight with one row: [1, columns], or [columns] in some files."""
        name = self.tensor_name(slot)
        is_vector = self.tensors.has(name) and len(self.tensors.tensor(name).dims) == 1
        return self.weight(slot, *((columns,) if is_vector else (1, columns)))

    def table(self, slot: str, columns: int) -> str:
        """The node of a weight of as many rows as the file has, [rows, columns]: a vector is one row."""
        return self.weight(slot, self.rows_of(slot, 1), columns)

    def rows_of(self, slot: str, otherwise: int) -> int:
        """How many rows a weight has in the file: ``otherwise`` where it is no matrix, or is not there."""
        name = self.tensor_name(slot)
        dims = self.tensors.tensor(name).dims if self.tensors.has(name) else ()
        return dims[-2] if len(dims) > 1 else otherwise

    def biases(self, *wanted: tuple[str, int], needed: bool = False) -> list[str]:
        """The nodes of the biases of slots, each given as ``(slot, length)``.

        Empty if the file has none of them. Raises ModelError if it has some but not all, or has none and ``needed``
        is set.
        """
        names = {self.tensor_name(slot, "bias"): slot for slot, _ in wanted}
        there = [name for name in names if self.tensors.has(name)]
        if not there and not needed:
            return []
        missing = [name for name in names if name not in there]
        if there and missing:
            self.tensors.lacks(missing, there[0])
        return [self.weight(slot, length, what="bias") for slot, length in wanted]

    def _scale_of(self, slot: str, info: TensorInfo, dims: tuple[int, ...]) -> str | None:
        """The name of the tensor that scales a weight, if there is one.

        Raises UnsupportedModelError if kernels decode the weight's format: they do not apply a scale.
        """
        name = self.tensor_name(slot, "scale")
        if slot == "embedding" or not self.tensors.has(name) or self.family.tensor_name(slot, "scale") in self.family.gguf_names.values():
            return None  # the last: it is a weight of its own, which the graph applies
        if not info.format.is_decoded_when_bound:
            where = self.family.metadata.path
            raise UnsupportedModelError(
                f"{where}: tensor {name!r} scales a weight of {info.format.name}, which is not supported; expected one of NVFP4"
            )
        self.tensors.tensor(name, (dims[0] if len(dims) == _EXPERT_DIMS else 1,))
        self.slots[name] = (slot, "scale", self.layer)
        return name


def _op(name: str) -> Op:
    if name not in OPS:
        raise GraphError(f"there is no op {shown(name)}; expected one of {', '.join(OPS)}")
    return OPS[name]


def require_stage(name: str) -> None:
    """Raise GraphError for a stage that is not in the table: else its weight would be sought in the file, and said to be missing."""
    if name not in STAGE_BY_NAME:
        raise GraphError(f"there is no stage {shown(name)}{did_you_mean(str(name))}; a family may declare stages of its own, as `stages`")
