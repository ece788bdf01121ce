"""How a fault gets into a run: nodes that compute something else, weights that are read as something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aprgraph.graph.ir import Node, renamed
from aprgraph.graph.ops import Array
from aprgraph.graph.sources.source import TensorInfo
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32
from tests.zoo.arithmetic import Float32
from tests.zoo.subjects import Subject


@dataclass(frozen=True)
class Call:
    """One node about to be computed, in one pass of a run.

    ``values`` are those of the nodes before it in this pass; ``earlier`` is the state that earlier passes left: of a cache, their rows.
    """

    subject: Subject
    node: Node
    operands: Sequence[Array]
    values: Mapping[str, Array]
    step: int
    arithmetic: Float32
    earlier: Array | None = None

    def compute(self, operands: Sequence[Array] | None = None, **attrs: object) -> Array:
        """What the node gives, from other operands or with other attributes if these are given."""
        node = renamed(self.node, attrs={**self.node.attrs, **attrs})
        return self.arithmetic.compute(node, self.operands if operands is None else operands)

    def compute_as(self, op: str, operands: Sequence[Array], **attrs: object) -> Array:
        """What another op gives."""
        return self.arithmetic.compute(renamed(self.node, op=op, attrs=attrs), operands)

    def near(self, name: str) -> Array:
        """The value of a node of the same layer."""
        return self.values[f"layer{self.node.layer}.{name}"]


#: What a node computes instead.
Patch = Callable[[Call], Array]


@dataclass(frozen=True)
class Stored:
    """A tensor of the file: a copy of its bytes, u8 [rows, bytes of a row], and its ``right`` values."""

    subject: Subject
    info: TensorInfo
    raw: Array
    right: F32


#: How a tensor of the file is read instead.
Misreading = Callable[[Stored], Array]


@dataclass(frozen=True)
class Plant:
    """The nodes that are wrong in ``steps``, and the weights, which always are, by name."""

    nodes: Mapping[str, Patch] = field(default_factory=dict)
    weights: Mapping[str, Misreading] = field(default_factory=dict)
    steps: range = range(1 << 20)


@dataclass(frozen=True)
class Site:
    """One place of a fault.

    ``layer`` is None where it is in no one layer. ``wrong`` are the tensors that are not what they should be, given what they are
    computed from, when everything around is recorded. ``tokens``, where the run has other ones.
    """

    layer: int | None
    plant: Plant
    wrong: frozenset[Place]
    tokens: tuple[int, ...] | None = None

    @property
    def place(self) -> str:
        """``layer 1``, ``model`` or ``prompt``."""
        if self.layer is None:
            return "model" if self.tokens is None else "prompt"
        return f"layer {self.layer}"


@dataclass(frozen=True)
class Fault:
    """A named mistake of an engine, and where it can be in a model; ``sites`` is empty where it cannot.

    ``kind`` is "graph" (another computation), "weights" (a tensor read or stored otherwise), "kernel" (an op that computes
    otherwise) or "input". ``variants`` are those of the models in which it shows: it is planted in each.
    ``seen`` is a report of it, or of one like it, in an engine: owner/repository#number on GitHub.
    """

    name: str
    kind: str
    summary: str
    sites: Callable[[Subject], Sequence[Site]]
    variants: tuple[str, ...] = ("plain",)
    families: tuple[str, ...] | None = None
    seen: str = ""
