"""Traits: properties of ops. Code outside graph/ops asks for these, and does not compare the names of ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from aprgraph.graph.ops.state import State


class Role(Enum):
    """The role of a node in a graph. Only COMPUTED nodes have a kernel."""

    #: A source: an input of the run, token ids or positions.
    INPUT = auto()
    #: A source: a tensor of the model file.
    WEIGHT = auto()
    #: A source: a tensor that a trace recorded.
    RECORDED = auto()
    #: A source: a value that another part of a split graph computed.
    RECEIVED = auto()
    #: Computed from its operands.
    COMPUTED = auto()
    #: A sink: it saves its operand, and nothing reads it.
    TAP = auto()


@dataclass(frozen=True)
class Traits:
    """Properties that every use of an op has.

    Operands have the names of the op's declaration, without ``*`` and ``?``.
    """

    role: Role = Role.COMPUTED
    #: The state that the op keeps from pass to pass. None for most ops: their result depends on the operands alone.
    state: State | None = None
    #: The operands that must be weights.
    weights: tuple[str, ...] = ()
    #: The operand that holds ids, each an index into the outermost dimension of the weight. Other rows are not read.
    picks_rows_by: str | None = None
    #: Whether the op multiplies by weight matrices. These may take gigabytes, so its reference reads them in slices
    #: of rows.
    is_matmul: bool = False
    #: The operand whose rows are multiplied by weight matrices, or by the rows of a KV cache. Engines may round it to
    #: what the other one is held in, or to something near.
    multiplied: str | None = None
    #: Whether elements are sums of many terms, parts of which may exceed the range of a number where the whole does not. Of
    #: the operands' magnitudes, the result is no less than any part.
    sums: bool = False
    #: The op that this one is in another arithmetic: with the same operands and, but for more of its own, attributes.
    variant_of: str | None = None
    #: Whether the result holds ids chosen by comparing values, as in top-k. A rounding error can give another id. An
    #: id is NaN where the values hold a NaN and nothing can be chosen.
    chooses: bool = False
    #: Whether each row of the result depends only on weights and on the same row of the operands. An op that reads
    #: other positions, such as attention, is not rowwise.
    is_rowwise: bool = False
    #: Whether the result has the last position of the operand and no other.
    keeps_last_position: bool = False
    #: Whether the result is one row that all positions of a text decide, so that no part of the text gives it.
    pools: bool = False
    #: By operand, the axis of the keys that are attended to. Its size is t: the positions of earlier passes and of
    #: this one.
    attended: Mapping[str, int] = field(default_factory=dict)


#: The traits of an op that declares none.
NO_TRAITS = Traits()
