"""Mistakes before the first layer and behind the last: tokens, rows of tables, the position of the logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.explain.alternative import Alternative, explains, with_attrs, with_operand, with_value
from aprgraph.runtime.explain.explanation import ANOTHER_PROMPT
from aprgraph.runtime.explain.site import Site

#: Of a longer run not every position is tried.
_MOST_POSITIONS = 64
#: Of tables of no more elements the rows are looked through, so many at once, by so many of their columns.
_LARGEST_TABLE, _ROWS_AT_ONCE, _SEEN_COLUMNS = 1 << 26, 4096, 8
#: So many tokens are named.
_NAMED_TOKENS = 8


@explains("embed")
def other_rows(site: Site) -> Iterator[Alternative]:
    """The rows of other tokens, or positions, are looked up."""
    ids = site.operands[0]
    size = site.operands[1].shape[0]
    # Of one position another row is another token, not a mistake of counting.
    for shift in (1, 2, -1) if len(ids) > 1 or site.operand_names[0] == "positions" else ():
        moved = ids + shift
        if moved.min() >= 0 and moved.max() < size:
            words = f"{site.called} looks up the row {abs(shift)} {'behind' if shift > 0 else 'before'}"
            yield Alternative("row-shifted", words, with_operand(site, 0, partial(np.add, shift)))
    if len(ids) > 1:
        yield Alternative(
            "tokens-shifted", "every position but the first has the token before its own",
            with_operand(site, 0, lambda ids: np.concatenate([ids[:1], ids[:-1]])),
        )  # fmt: skip
    if site.recorded is not None and site.operand_names[0] != "positions":
        yield from _tokens_that_fit(site, ids)
    elif site.recorded is not None:
        yield from _positions_that_fit(site, ids)


@explains("query_temperature")
def other_temperature(site: Site) -> Iterator[Alternative]:
    """Positions are counted from another one, or the temperature does not grow."""
    for shift in (1, -1):
        words = f"the temperature of queries counts positions from {shift}"
        yield Alternative("temperature", words, with_operand(site, 0, partial(np.add, shift)))
    offset = site.node.attr_int("offset", 0)
    if offset:
        yield Alternative(
            "temperature", f"the temperature of queries counts positions from 0, and not from {offset}", with_attrs(site, offset=0)
        )
    yield Alternative("temperature", "queries have no temperature", with_attrs(site, strength=0.0))


def _tokens_that_fit(site: Site, ids: Array) -> Iterator[Alternative]:
    """Some positions have other tokens' rows: the prompt may be another."""
    assert site.recorded is not None
    off = np.square(site.recorded - site.due).sum(axis=1)
    wrong = np.flatnonzero(off > 1e-9 * np.square(site.due).sum(axis=1))
    if not len(wrong) or len(wrong) > _MOST_POSITIONS or math.prod(site.operands[1].shape) > _LARGEST_TABLE:
        return
    changed = ids.copy()
    changed[wrong] = _nearest_rows(site, site.recorded[wrong])
    if (changed == ids).all() or not site.fits(site.compute([changed, site.operands[1]])):
        return
    if len(wrong) == 1:
        where = f"position {wrong[0]}" if len(ids) > 1 else "this step"
        words = f"{where} has token {int(changed[wrong[0]])} in place of {int(ids[wrong[0]])}"
    else:
        words = f"the tokens are {_first(changed)} in place of {_first(ids)}, as of another prompt"
    yield Alternative(ANOTHER_PROMPT, words, with_value(site, 0, changed))


def _positions_that_fit(site: Site, ids: Array) -> Iterator[Alternative]:
    """Positions are counted from another one, as where those of padding to the left count too."""
    assert site.recorded is not None
    some = slice(0, _MOST_POSITIONS)
    if not len(ids) or math.prod(site.operands[1].shape) > _LARGEST_TABLE or not np.isfinite(site.recorded).all():
        return
    shifts = np.unique(_nearest_rows(site, site.recorded[some]) - ids[some])
    shift = int(shifts[0])
    moved = ids + shift
    if len(shifts) > 1 or shift in (0, 1, 2, -1) or moved.min() < 0 or moved.max() >= site.operands[1].shape[0]:
        return
    if site.fits(site.compute([moved, site.operands[1]])):
        where = f"behind, as where positions are counted from {shift}" if shift > 0 else "before"
        words = f"{site.called} looks up the row {abs(shift)} {where}"
        yield Alternative("row-shifted", words, with_operand(site, 0, partial(np.add, shift)))


def _nearest_rows(site: Site, recorded: Array) -> Array:
    """For each row the id whose row is the nearest, by some of the columns: int64 [rows]."""
    count, columns = site.operands[1].shape
    seen = np.unique(np.linspace(0, columns - 1, _SEEN_COLUMNS).astype(np.int64))
    nearest, least = np.zeros(len(recorded), np.int64), np.full(len(recorded), np.inf)
    for start in range(0, count, _ROWS_AT_ONCE):
        some = np.arange(start, min(start + _ROWS_AT_ONCE, count))
        values = site.compute([some, site.operands[1]])[:, seen]
        away = np.square(recorded[:, None, seen] - values[None]).sum(axis=2)
        best = away.argmin(axis=1)
        found = away[np.arange(len(recorded)), best]
        nearest, least = np.where(found < least, some[best], nearest), np.minimum(found, least)
    return nearest


def _first(ids: Array) -> str:
    more = f" and {len(ids) - _NAMED_TOKENS} more" if len(ids) > _NAMED_TOKENS else ""
    return ", ".join(str(int(one)) for one in ids[:_NAMED_TOKENS]) + more


@explains("last_row", "first_row", "mean_rows")
def other_position(site: Site) -> Iterator[Alternative]:
    """Another position than the one that should be taken, or the mean."""
    rows = len(site.operands[0])
    own = {"last_row": f"the last, {rows - 1}", "first_row": "the first"}.get(site.node.op, "the mean")
    right = {"last_row": rows - 1, "first_row": 0}.get(site.node.op)
    for position in list(range(rows - 1, -1, -1))[:_MOST_POSITIONS]:
        if position != right:
            words = f"{site.read_by} is of position {position} in place of {own}"
            yield Alternative("other-position", words, partial(_row, position))
    if right is not None:
        yield Alternative("other-position", f"{site.read_by} is of the mean of all positions in place of {own}", _mean)
        return
    for position in (0, rows - 1):
        kept = np.arange(rows) != position
        yield Alternative("mean-of-others", f"the mean is without position {position}", partial(_mean_of, kept))
    if site.recorded is not None and site.fits(_padded(site)):
        count = _padding(site)
        words = f"the mean is over {count} positions more, which hold what the last one does"
        yield Alternative("mean-of-others", words, lambda operands: (_mean(operands) * rows + operands[0][-1:] * count) / (rows + count))


def _padding(site: Site) -> int:
    """How many rows like the last one explain a mean: r = (n m + c x) / (n + c), so r - m = c / (n + c) (x - m)."""
    assert site.recorded is not None
    away = site.operands[0][-1:] - site.due
    share = float(np.vdot(site.recorded - site.due, away)) / max(float(np.vdot(away, away)), 1e-300)
    return round(share * len(site.operands[0]) / (1 - share)) if 0 < share < 1 else 0


def _padded(site: Site) -> Array:
    rows, count = len(site.operands[0]), _padding(site)
    return np.asarray((site.due * rows + site.operands[0][-1:] * count) / (rows + count))


def _mean(operands: Sequence[Array]) -> Array:
    return np.asarray(operands[0].mean(axis=0, keepdims=True))


def _mean_of(kept: Array, operands: Sequence[Array]) -> Array:
    return np.asarray(operands[0][kept].mean(axis=0, keepdims=True))


def _row(position: int, operands: Sequence[Array]) -> Array:
    return operands[0][position : position + 1]


@explains("linear")
def tied_head(site: Site) -> Iterator[Alternative]:
    """A table of the model's own size in place of another: the embedding for the head (``other_weight`` tries it by samples first)."""
    if site.recorded is not None:
        return
    weights = [name for _, name in site.weight_names()]
    tables = [node for name in weights for node in site.weights_like(name) if node.type.dims[0] == site.around.model.vocabulary]
    for table in tables[:1]:
        words = f"{site.called} multiplies by {site.label_of(table)} in place of {site.label(1)}"
        yield Alternative("other-weight", words, with_value(site, 1, site.read(table)))
