"""RoPE by the angles of other positions: of each position that is off, whose angles it was turned by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import listed, plural, runs
from aprgraph.runtime.explain.alternative import GENERAL, SOLVED, Alternative, explains, with_value
from aprgraph.runtime.explain.site import LEFT, Site, compute

#: Longer passes are not tried: each position's angles are tried at each position.
_MOST = 256
#: So far behind the last position angles are looked for.
_BEYOND = 2
#: And so far before a single one.
_MOST_BEFORE = 1 << 14
_NAMED = 3


@explains("rope")
def other_positions(site: Site) -> Iterator[Alternative]:
    """Some positions are turned by the angles of others, or not at all."""
    graph, positions = site.around.graph, site.around.positions
    node = graph[site.operand_names[1]]
    n = len(site.due)
    if site.recorded is None or node.op != "rope_angles" or not 0 < n <= _MOST or len(positions) != n:
        return
    off = np.square(site.recorded - site.due).sum(axis=1)
    wrong = np.flatnonzero(off > 1e-6 * off.max())
    if not wrong.size or wrong.size == n > 1:  # all of them: then the table is another one
        return
    before = _BEYOND if n > 1 else _MOST_BEFORE  # where a single position may be counted from its own pass on
    tried = np.unique(np.concatenate([[0], np.arange(max(0, positions[0] - before), positions[-1] + _BEYOND + 1)]))
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
            counts=tuple(map(int, taken)),
        )


def _words(wrong: Array, taken: Array) -> str:
    which = f"{plural(len(wrong), 'position')} {runs(wrong, _NAMED)}"
    verb = "is" if len(wrong) == 1 else "are"
    if not taken.any():
        return f"RoPE leaves {which} as {'it is' if len(wrong) == 1 else 'they are'}"
    if len({*taken.tolist()}) == 1:
        return f"{which} {verb} turned as position {taken[0]}"
    if period := _period(wrong, taken):
        return f"positions begin again at 0 after every {period}"
    shifts = {*(taken - wrong).tolist()}
    if len(shifts) == 1:
        shift = shifts.pop()
        return f"{which} {verb} turned as those {abs(shift)} {'further on' if shift > 0 else 'before'}"
    return f"{which} {verb} turned as {plural(len(taken), 'position')} {listed(map(int, taken), 2 * _NAMED)}"


def _period(wrong: Array, taken: Array) -> int:
    """After how many positions they begin again at 0, more than once; 0 if they do not."""
    period = int(wrong[0])
    return period if period > 0 and not taken[0] and wrong[-1] >= 2 * period and np.array_equal(taken, wrong % period) else 0


@explains("rope")
def positions_of_heads(site: Site) -> Iterator[Alternative]:
    """Each head is turned by the angles of one position, as where the axis of heads is taken for that of positions."""
    heads = site.node.attr_int("heads")
    if not 1 < heads <= len(site.operands[1]):
        return

    def compute(operands: Sequence[Array]) -> Array:
        of_heads = [np.broadcast_to(row, operands[1].shape) for row in operands[1][:heads]]
        start, size = site.node.attr_int("start"), site.node.attr_int("head_size")
        parts = [site.compute([operands[0], row], heads=1, start=start + head * size) for head, row in enumerate(of_heads)]
        return np.concatenate(parts, axis=1)

    if site.recorded is None or site.fits(compute(site.operands)):
        words = "RoPE turns head h by the angles of position h, at every position"
        yield Alternative("rope-of-heads", words, compute, GENERAL)


@explains("rope")
def positions_and_heads(site: Site) -> Iterator[Alternative]:
    """Each head is turned by the angles of its position and its number together, as where heads are counted on like positions."""
    graph, heads = site.around.graph, site.node.attr_int("heads")
    node, positions = graph[site.operand_names[1]], site.around.positions
    if site.recorded is None or heads < 2 or node.op != "rope_angles" or len(positions) != len(site.operands[1]):
        return
    factors = [site.read(graph[name]) for name in graph.operand_names(node.name)[1:]]
    tables = [compute(node, [positions + head, *factors], site.around) for head in range(heads)]
    if tables[0].shape != site.operands[1].shape:
        return

    def turned(operands: Sequence[Array]) -> Array:
        start, size = site.node.attr_int("start"), site.node.attr_int("head_size")
        parts = [site.compute([operands[0], table], heads=1, start=start + head * size) for head, table in enumerate(tables)]
        return np.concatenate(parts, axis=1)

    if site.fits(turned(site.operands)):
        yield Alternative("rope-of-heads", "RoPE turns head h of position p by the angles of position p + h", turned)
