"""A wrong tensor under several hypotheses of what was recorded: the simplest explanation of it says which of them holds.

What it is computed from may stand in the trace as it was computed, or in another form; and its own rows may be those of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops.rope import PAIRINGS
from aprgraph.runtime.blame.doubts import Case, is_far_less
from aprgraph.runtime.blame.local_errors import LocalError
from aprgraph.runtime.explain import Explanation
from aprgraph.runtime.readings import Reading, layout_of
from aprgraph.runtime.readings.row_order import order_of_graph
from aprgraph.runtime.readings.steps import row_order

#: More than any explanation that was found.
_NONE = (99, 0)


@dataclass(frozen=True)
class Hypothesis:
    """What a tensor is ``wrong`` by, in a ``case``, if doubtful ones are ``standing`` as they were computed, or read in another form; and
    if its own rows are ``turned``. ``explanation`` is the mistake that explains it then.
    """

    wrong: LocalError
    case: Case
    standing: bool = False
    turned: Reading | None = None
    explanation: Explanation | None = None

    @property
    def words(self) -> str:
        """What tells it from the others."""
        return f"{', standing' if self.standing else ''}{', turned' if self.turned is not None else ''}"

    @property
    def mistakes(self) -> tuple[int, int]:
        """How many mistakes it takes, and how little they say."""
        if self.explanation is None:
            return _NONE
        return self.explanation.first.name.count(" + ") + 1, self.explanation.first.rank


def turned_rows(graph: Graph, case: Case) -> Reading | None:
    """The reading of a tensor of q or k whose rows are in the order that the model has not; None of other tensors."""
    wanted = order_of_graph(graph)
    layout = layout_of(graph, case.tensor.node, case.computed.shape)
    if wanted is None or not layout.heads or layout.head_size % 2 or case.recorded.shape != case.computed.shape:
        return None
    other = next(order for order in PAIRINGS if order != wanted)
    return Reading((row_order(layout, other, wanted),))


def likeliest_of(found: Sequence[Hypothesis], *, reads_row_order: bool) -> tuple[Hypothesis, ...]:
    """Those of some hypotheses that take the fewest mistakes, several where they take as many.

    Where nothing explains any of them, rows are turned if that leaves far less of the error, or if those that it is computed from are.
    """
    least = min(one.mistakes for one in found)
    best = tuple(one for one in found if one.mistakes == least)
    if least != _NONE:
        return best
    turned = [one for one in found if one.turned is not None]
    as_they_stand = [one for one in found if one.turned is None]
    if turned and (reads_row_order or any(all(is_far_less(one.wrong, other.wrong) for other in as_they_stand) for one in turned)):
        return tuple(turned)
    return best if not turned else tuple(as_they_stand)
