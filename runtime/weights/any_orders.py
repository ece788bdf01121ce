"""Any order of rows, columns or experts: what of A is found again elsewhere in B, by products with random directions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aprgraph.graph.words import counted
from aprgraph.runtime.weights.fit import Fit, sample_of
from aprgraph.runtime.weights.model_numbers import head_size
from aprgraph.runtime.weights.order_words import order_in_words
from aprgraph.runtime.weights.rows import Index, ReorderedColumns, Rows, pieces
from aprgraph.runtime.weights.tensor_pair import TensorPair

Features = npt.NDArray[np.float32]

#: Matrices of more rows or columns are not looked for one by one.
_MOST = 1 << 15
#: Random directions by which rows are told apart, and how alike (as a cosine in them) two must be.
_DIRECTIONS, _ALIKE = 64, 0.85
#: Of rows in another order some of A are among some of B: with this times the root of their number on both sides, 16 on average.
_BIRTHDAYS = 4
#: Columns by which it is decided whether to compare all.
_COLUMNS_AT_FIRST = 64
#: Of more than so large a share that stands in the place of others one says so: fewer are damage.
_REPEATED = 0.1
#: Experts, and runs of rows, that are named.
_NAMED = 4
#: Tensors whose rows, or columns, are those of heads.
_QUERIES = ("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_q_b.weight", "attn_kv_b.weight")
_OUTPUT = "attn_output.weight"


def experts_in_another_order(pair: TensorPair) -> Iterator[Fit]:
    """Whole experts exchanged, or one in the place of another: found by a few rows of each."""
    if len(pair.a.dims) != 3 or pair.a.dims[0] < 2:
        return
    experts, rows = pair.a.dims[0], pair.a.dims[1]
    some = np.unique(np.linspace(0, rows - 1, min(rows, 4)).astype(np.int64))
    numbers = (np.arange(experts)[:, None] * rows + some).reshape(-1)
    a, b = (side.fetch(numbers).values.reshape(experts, -1) for side in (pair.rows_a, pair.rows_b))
    order = _matched(a, b)
    if order is not None and _is_order(order):
        text = order_in_words(order, "expert").text
        yield Fit("expert-order", text, pair.rows_b, _ByExpert(order, rows), moved=order)
        return
    for side, ours, theirs, found in (("A", pair.rows_a, pair.rows_b, order), ("B", pair.rows_b, pair.rows_a, _matched(b, a))):
        if found is not None and not _is_order(found):
            other = "B" if side == "A" else "A"
            at = np.flatnonzero(found != np.arange(experts)).tolist()
            held = ", ".join(f"expert {expert} of {side} is {other}'s {found[expert]}" for expert in at[:_NAMED])
            more = f" and so on, {counted(len(at), 'expert')} in all" if len(at) > _NAMED else ""
            short = "an expert stands in another's place"
            yield Fit("expert-repeated", held + more, theirs, _ByExpert(found, rows), target=ours, slot_text=short)


class _ByExpert:
    """The order of rows that an order of experts makes."""

    def __init__(self, order: Index, rows: int) -> None:
        self._order, self._rows = order, rows

    def __call__(self, numbers: Index) -> Index:
        return self._order[numbers // self._rows] * self._rows + numbers % self._rows


def rows_in_another_order(pair: TensorPair) -> Iterator[Fit]:
    """Any order of the rows: each row of A is looked for among those of B."""
    a, b = pair.rows_a, pair.rows_b
    if not 2 <= a.count <= _MOST or b.count != a.count or pair.is_vector:
        return
    directions = np.random.default_rng(0).standard_normal((a.columns, _DIRECTIONS)).astype(np.float32)
    if not _share_some(a, b, directions):
        return
    ours, theirs = (_features(side, directions, np.arange(side.count)) for side in (a, b))
    order = _matched(ours, theirs)
    if order is None:
        return
    if not _is_order(order):
        for side, other, found, rows, target in (("B", "A", _matched(theirs, ours), a, b), ("A", "B", order, b, a)):
            if found is not None and _are_repeated(found, ours if side == "B" else theirs):
                text, short = _repeats_in_words(found, "row", side, other)
                yield Fit("rows-repeated", text, rows, found.__getitem__, target=target, slot_text=short)
        return
    head = head_size((pair.file_a, pair.file_b), pair.slot, a.count) if pair.slot in _QUERIES else 0
    words = order_in_words(order, "row", head)
    kind, text = "row-order", words.text
    if words.block > 1 and head and words.block % head == 0:
        kind, text = "head-order", text.replace("the rows are", "the heads, or groups of them, are", 1)
    short = text.partition(":")[0]
    yield Fit(kind, text, b, order.__getitem__, slot_text=short, moved=order)


def columns_in_another_order(pair: TensorPair) -> Iterator[Fit]:
    """Any order of the columns, the same in every row: each column of A is looked for among those of B by some rows."""
    a, b = pair.rows_a, pair.rows_b
    if not 2 <= a.columns <= _MOST or b.columns != a.columns or b.count != a.count or a.count < 2:
        return
    rows = sample_of(a)
    ours, theirs = (side.fetch(rows).values.T for side in (a, b))
    order = _found_columns(ours, theirs)
    if order is None or not _is_order(order):
        for side, other, moved, held, target in (("B", "A", _found_columns(theirs, ours), a, b), ("A", "B", order, b, a)):
            if moved is not None and _are_repeated(moved, ours if side == "B" else theirs):
                text, short = _repeats_in_words(moved, "column", side, other)
                yield Fit("columns-repeated", text, ReorderedColumns(held, moved), target=target, slot_text=short)
        return
    head = head_size((pair.file_a, pair.file_b), pair.slot, a.columns) if pair.slot == _OUTPUT else 0
    text = order_in_words(order, "column", head).text
    yield Fit("column-order", text, ReorderedColumns(b, order), slot_text=text.partition(": A's column")[0], moved=order)


def _found_columns(ours: Features, theirs: Features) -> Index | None:
    """By each of ``ours`` which of ``theirs`` it is, where nearly all of some of them are among those."""
    some = np.unique(np.linspace(0, len(ours) - 1, _COLUMNS_AT_FIRST).astype(np.int64))
    alike = _alike(ours[some], theirs)
    if alike is None or np.mean(alike.max(axis=1) > _ALIKE) < _ALIKE:
        return None
    return _matched(np.ascontiguousarray(ours), np.ascontiguousarray(theirs))


def _are_repeated(order: Index, of: Features) -> bool:
    """Whether enough rows stand in the place of others to be no damage of a few; rows of 0 are those of any other such."""
    moved = np.flatnonzero(order != np.arange(len(order)))
    return not _is_order(order) and len(moved) > _REPEATED * len(order) and bool(of[order[moved]].any(axis=1).all())


def _repeats_in_words(order: Index, noun: str, side: str, other: str) -> tuple[str, str]:
    """``B's rows 32..63 are A's rows 0..31``, and the same for a finding of several layers."""
    moved = np.flatnonzero(order != np.arange(len(order)))
    breaks = np.flatnonzero((np.diff(moved) != 1) | (np.diff(order[moved]) != 1)) + 1
    runs = np.split(moved, breaks)

    def span(first: int, last: int) -> str:
        return f"{noun} {first}" if first == last else f"{noun}s {first}..{last}"

    named = [f"{side}'s {span(run[0], run[-1])} are {other}'s {span(order[run[0]], order[run[-1]])}" for run in runs[:_NAMED]]
    more = f" and so on, {counted(len(moved), noun)} in all" if len(runs) > _NAMED else ""
    missing = len(order) - len(np.unique(order))
    text = f"{', '.join(named)}{more}; {missing:,} of {other}'s are not in {side}, as where one shard stands for others"
    return text, text if len(runs) <= _NAMED else f"{noun}s of {side} stand in the place of others"


def _share_some(a: Rows, b: Rows, directions: Features) -> bool:
    """Whether some of A's rows are among some of B's, as they are where B has them all in another order."""
    count = min(a.count, _BIRTHDAYS * int(np.ceil(np.sqrt(a.count))))
    chosen = (np.sort(np.random.default_rng(seed).choice(a.count, count, replace=False)) for seed in (1, 2))
    sides = [_features(side, directions, numbers) for side, numbers in zip((a, b), chosen, strict=True)]
    alike = _alike(*sides)
    return alike is not None and bool((alike.max(axis=1) > _ALIKE).any())


def _features(rows: Rows, directions: Features, numbers: Index) -> Features:
    with np.errstate(over="ignore", invalid="ignore"):  # then none is alike
        return np.concatenate([rows.fetch(numbers[piece]).values @ directions for piece in pieces(len(numbers), rows.columns)])


def _alike(a: Features, b: Features) -> Features | None:
    """Cosines [of a, of b]; None where no number says anything."""
    sides = []
    for side in (a, b):
        with np.errstate(over="ignore", invalid="ignore"):
            size = np.sqrt(np.square(side).sum(axis=1, keepdims=True))
        if not np.isfinite(size).all():
            return None
        sides.append(side / np.maximum(size, 1e-30))
    found: Features = sides[0] @ sides[1].T
    return found


def _matched(a: Features, b: Features) -> Index | None:
    """By each of ``a`` which of ``b`` is most like it, itself where none is more; None if all are where they were."""
    order = np.empty(len(a), np.int64)
    for start in range(0, len(a), 1024):
        alike = _alike(a[start : start + 1024], b)
        if alike is None:
            return None
        best = alike.argmax(axis=1)
        same = np.arange(start, start + len(best))
        stay = alike[np.arange(len(best)), same] >= alike[np.arange(len(best)), best] - 1e-6
        order[start : start + len(best)] = np.where(stay, same, best)
    return None if (order == np.arange(len(order))).all() else order


def _is_order(order: Index) -> bool:
    """Whether each is there once."""
    return len(np.unique(order)) == len(order)
