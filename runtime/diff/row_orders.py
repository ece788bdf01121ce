"""Two traces whose manifests name different orders of the rows of q and k, brought to one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.words import joined
from aprgraph.runtime.diff.caveats import Aside, Caveat
from aprgraph.runtime.diff.side_names import SideNames
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.layout import is_turned
from aprgraph.runtime.readings.row_order import in_row_order, order_of, rows_of
from aprgraph.runtime.readings.steps import PAIRS_IN_WORDS
from aprgraph.runtime.trace.reader import Trace

#: Tensors that decide whether what the manifests say is so, from the first on.
_LOOKED_AT = 4


@dataclass(frozen=True)
class RowOrders:
    """Both sides, B perhaps in the order of A. ``notes`` say what was done."""

    a: Trace
    b: Trace
    notes: tuple[str, ...] = ()


def in_one_row_order(a: Trace, b: Trace, names: SideNames) -> RowOrders:
    """Both traces with the rows of q and k as A has them. Raises TraceError that names a damaged file.

    Values have the last word: where they agree better as they were recorded, the traces are left so.
    """
    orders = order_of(a), order_of(b)
    if None in orders or orders[0] == orders[1]:
        return RowOrders(a, b)
    order, other = (PAIRS_IN_WORDS[one] for one in orders if one is not None)
    said = f"RoPE's pairs are {order} in {names.of('A')} and {other} in {names.of('B')}"
    layouts = next((found for graph in (a.graph(), b.graph()) if graph is not None and (found := rows_of(b, graph))), {})
    common = [entry for entry in b.entries if entry.key in layouts and entry.key in a]
    if not common:
        has_rows = any(is_turned(entry.stage) and entry.key in a for entry in b.entries)
        notes = (Caveat(f"{said}, and no graph tells the heads: q and k are compared as they are"),) if has_rows else ()
        return RowOrders(a, b, notes=notes)
    assert orders[0] is not None
    turned = in_row_order(b, orders[0], layouts)
    keys = [entry.key for entry in common[:_LOOKED_AT]]
    if _distance(a, b, keys) <= _distance(a, turned, keys):
        return RowOrders(a, b, notes=(Caveat(f"{said}, by their manifests; the values agree better as they are, and are compared so"),))
    stages = joined(list(dict.fromkeys(entry.stage for entry in common)))
    return RowOrders(a, turned, notes=(Aside(f"{said}: {stages} of B are compared in the order of A"),))


def _distance(a: Trace, b: Trace, keys: Collection[Place]) -> float:
    """The sum of squared differences of some tensors; of those of different shapes, of the last position."""
    total = 0.0
    for step, layer, stage in keys:
        with np.errstate(invalid="ignore"):  # signalling NaNs
            one, other = (np.asarray(trace.tensor(stage, layer, step), np.float64) for trace in (a, b))
        count = min(len(one), len(other))
        if one.ndim == other.ndim and one.shape[1:] == other.shape[1:]:
            with np.errstate(invalid="ignore"):  # of two Inf: NaN
                difference = one[-count:] - other[-count:]
            total += float(np.square(difference[np.isfinite(difference)]).sum())
    return total
