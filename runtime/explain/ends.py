"""Mistakes before the first layer and behind the last: tokens, rows of tables, the position of the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.explain.alternative import Alternative, explains, with_attrs, with_operand, with_value
from aprgraph.runtime.explain.site import Site

#: Of a longer run not every position is tried.
_MOST_POSITIONS = 64


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
    if site.recorded is None:
        return
    yield from _tokens_that_fit(site, ids)


@explains("query_temperature")
def other_temperature(site: Site) -> Iterator[Alternative]:
    """Positions are counted from another one, or the temperature does not grow."""
    for shift in (1, -1):
        words = f"the temperature of queries counts positions from {shift}"
        yield Alternative("temperature", words, with_operand(site, 0, partial(np.add, shift)))
    yield Alternative("temperature", "queries have no temperature", with_attrs(site, strength=0.0))


def _tokens_that_fit(site: Site, ids: Array) -> Iterator[Alternative]:
    """One position has another token's row."""
    assert site.recorded is not None
    off = np.square(site.recorded - site.due).sum(axis=1)
    wrong = np.flatnonzero(off > 1e-9 * np.square(site.due).sum(axis=1))
    if len(wrong) != 1:
        return
    for other in dict.fromkeys(site.around.tokens):
        changed = np.where(np.arange(len(ids)) == wrong[0], other, ids)
        if other != ids[wrong[0]] and site.fits(site.compute([changed, site.operands[1]])):
            where = f"position {wrong[0]}" if len(ids) > 1 else "this step"
            words = f"{where} has token {int(other)} in place of {int(ids[wrong[0]])}"
            yield Alternative("other-token", words, with_value(site, 0, changed))


@explains("last_row")
def other_position(site: Site) -> Iterator[Alternative]:
    """Another position than the last."""
    rows = len(site.operands[0])
    for position in list(range(rows - 2, -1, -1))[:_MOST_POSITIONS]:
        words = f"the logits are those of position {position} in place of the last, {rows - 1}"
        yield Alternative("other-position", words, partial(_row, position))


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
