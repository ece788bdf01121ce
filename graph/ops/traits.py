"""Traits: what code outside graph/ops has to know of an op, so that it need not know which op it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from aprgraph.graph.ops.state import State


class Role(Enum):
    """What a node is in a graph. All but COMPUTED do without a kernel."""

    #: A source: something a run is given, token ids or positions.
    INPUT = auto()
    #: A source: a tensor of the model file.
    WEIGHT = auto()
    #: A source: a tensor that a trace recorded.
    RECORDED = auto()
    #: Computed from its operands.
    COMPUTED = auto()
    #: A sink: it saves its operand, and nothing reads it.
    TAP = auto()


@dataclass(frozen=True)
class Traits:
    """What holds of every use of an op. Operands are named as the op's declaration names them, without ``*`` and ``?``."""

    role: Role = Role.COMPUTED
    #: What the op remembers from pass to pass; None for most ops, whose results depend on their operands alone.
    state: State | None = None
    #: The operands that must be weights.
    weights: tuple[str, ...] = ()
    #: The operand whose values name the rows of the weight's outermost dimension that are read; the others are not touched.
    picks_rows_by: str | None = None
    #: Whether the op multiplies by matrices of weights, which may be gigabytes. Its reference reads them in slices of rows.
    is_matmul: bool = False
    #: Whether the result holds ids that were chosen by comparing values: a rounding can change them altogether, and they are NaN
    #: where nothing could be chosen.
    chooses: bool = False
    #: Whether each row of the result depends on the same row of the operands alone (and on weights). Most ops of a model are; those
    #: that are not look at other positions.
    is_rowwise: bool = False
    #: Whether the result is the last position of the operand, and of no other position.
    keeps_last_position: bool = False
    #: By operand, the axis of the positions that are attended to, earlier passes' included: t, which in a single pass is n.
    attended: Mapping[str, int] = field(default_factory=dict)


#: Those of an op that says nothing of itself.
NO_TRAITS = Traits()
