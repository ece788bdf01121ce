"""RoPE by the angles of other positions: of each position that is off, whose angles it was turned by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import listed, plural, runs
from aprgraph.runtime.explain.alternative import SOLVED, Alternative, explains, with_value
from aprgraph.runtime.explain.site import LEFT, Site, compute

#: Longer passes are not tried: each position's angles are tried at each position.
_MOST = 256
#: So far behind the last position angles are looked for.
_BEYOND = 2
_NAMED = 3


@explains("rope")
def other_positions(site: Site) -> Iterator[Alternative]:
    """Some positions are turned by the angles of others, or not at all."""
    graph, positions = site.around.graph, site.around.positions
    node = graph[site.operand_names[1]]
    n = len(site.due)
    if site.recorded is None or node.op != "rope_angles" or not 1 < n <= _MOST or len(positions) != n:
        return
    off = np.square(site.recorded - site.due).sum(axis=1)
    wrong = np.flatnonzero(off > 1e-6 * off.max())
    if not 0 < wrong.size < n:  # all of them: then the table is another one
        return
    tried = np.unique(np.concatenate([[0], np.arange(max(0, positions[0] - _BEYOND), positions[-1] + _BEYOND + 1)]))
    factors = [site.read(graph[name]) for name in graph.operand_names(node.name)[1:]]
    table = compute(node, [tried, *factors], site.around)
    if table.shape[1] != site.operands[1].shape[1]:
        return
    taken = np.array(positions)
    left = np.full(n, np.inf)
    for index, position in enumerate(tried):
        value = site.compute([site.operands[0], np.broadcast_to(table[index], (n, table.shape[1]))])
        error = np.square(site.recorded - value).sum(axis=1)
        better = error < left
        taken[better], left[better] = position, error[better]
    if (left[wrong] > LEFT * off[wrong]).any():
        return
    rows = np.array(site.operands[1])
    rows[wrong] = table[np.searchsorted(tried, taken[wrong])]
    if site.fits(site.compute([site.operands[0], rows])):
        is_still = not taken[wrong].any()
        yield Alternative(
            "rope-left-out" if is_still else "rope-position",
            _words(positions[wrong], taken[wrong]),
            with_value(site, 1, rows),
            SOLVED,
        )


def _words(wrong: Array, taken: Array) -> str:
    which = f"{plural(len(wrong), 'position')} {runs(wrong, _NAMED)}"
    verb = "is" if len(wrong) == 1 else "are"
    if not taken.any():
        return f"RoPE leaves {which} as {'it is' if len(wrong) == 1 else 'they are'}"
    if len({*taken.tolist()}) == 1:
        return f"{which} {verb} turned as position {taken[0]}"
    shifts = {*(taken - wrong).tolist()}
    if len(shifts) == 1:
        shift = shifts.pop()
        return f"{which} {verb} turned as those {abs(shift)} {'further on' if shift > 0 else 'before'}"
    return f"{which} {verb} turned as {plural(len(taken), 'position')} {listed(map(int, taken), 2 * _NAMED)}"
