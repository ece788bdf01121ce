"""A trace whose manifest names another order of the rows of q and k than the model has, brought to the model's."""

from __future__ import annotations

from aprgraph.runtime.blame.file_suspect import is_run_of
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.diff.caveats import Aside
from aprgraph.runtime.readings.row_order import in_row_order, order_of, order_of_graph, rows_of
from aprgraph.runtime.readings.steps import PAIRS_IN_WORDS
from aprgraph.runtime.trace.reader import Trace


def in_order_of_model(trace: Trace, model: ReplayedModel) -> tuple[Trace, tuple[str, ...]]:
    """``trace`` with its rows of q and k as those of the model are, and notes on it.

    A run of the model's own file has its rows, so that another order there is what the run took them for: a fault, and left.
    """
    recorded, wanted = order_of(trace), order_of_graph(model.graph)
    if recorded is None or wanted in (None, recorded) or is_run_of(trace, model):
        return trace, ()
    layouts = rows_of(trace, model.graph)
    if not layouts or wanted is None:
        return trace, ()
    pairs = f"{PAIRS_IN_WORDS[recorded]}, those of the model {PAIRS_IN_WORDS[wanted]}"
    said = Aside(f"{trace.directory}: RoPE's pairs are {pairs}; q and k are read in the model's order")
    return in_row_order(trace, wanted, layouts), (said,)
