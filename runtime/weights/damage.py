"""Which blocks or rows of a tensor are damaged, in words."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.words import counted
from aprgraph.runtime.check.describe import runs_in_words
from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.rows import Index
from aprgraph.runtime.weights.tensor_pair import TensorPair

_NAMED = 4
_LOOKED_AT = 16


def damage_in_words(pair: TensorPair, found: Measures) -> str:
    """``3 of 96 rows differ (rows 3, 17 and 40); B is 0 there``."""
    rows = np.array(sorted(found.bad_rows), np.int64)
    whole = sum(found.bad_rows.values()) == len(rows) * (found.units // max(1, found.elements // pair.rows_a.columns))
    if pair.is_vector:
        text = f"{len(rows):,} of {counted(pair.rows_a.count, 'element')} differ ({runs_in_words('element', rows)})"
    elif whole or found.bad_units > _NAMED:
        partly = "" if whole else " in some blocks"
        text = f"{len(rows):,} of {counted(pair.rows_a.count, 'row')} differ{partly} ({_rows_in_words(pair, rows)})"
    else:
        places = "; ".join(f"row {row}, columns {start}..{stop - 1}" for row, start, stop in found.bad_spans)
        text = f"{counted(found.bad_units, 'block')} of {found.units:,} {'differs' if found.bad_units == 1 else 'differ'} ({places})"
    return text + _what_is_there(pair, found, rows)


def not_finite_in_words(found: Measures) -> str:
    """``; A holds 3 NaN or Inf``, to be put behind a finding; empty if all is finite."""
    held = (f"; {side} holds {count:,} NaN or Inf" for side, count in zip("AB", found.not_finite, strict=True) if count)
    return next(held, "")


def _rows_in_words(pair: TensorPair, rows: Index) -> str:
    if len(pair.a.dims) != 3:
        return runs_in_words("row", rows)
    experts = np.unique(rows // pair.matrix_rows)
    return f"{runs_in_words('expert', experts)}, {runs_in_words('row', np.unique(rows % pair.matrix_rows))}"


def _what_is_there(pair: TensorPair, found: Measures, rows: Index) -> str:
    if any(found.not_finite):
        return not_finite_in_words(found)
    spans = [span for span in found.bad_spans if span[0] in rows[:_LOOKED_AT]]
    for side, of in (("A", pair.rows_a), ("B", pair.rows_b)):
        held = {int(row): of.fetch(np.array([row])).values[0] for row in rows[:_LOOKED_AT]}
        if all(not held[row][start:stop].any() for row, start, stop in spans):
            return f"; {side} is 0 there"
    return ""
