"""Which blocks or rows of a tensor are damaged, in words."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.words import counted
from aprgraph.runtime.check.describe import runs_in_words
from aprgraph.runtime.weights.measures import LARGEST_F16, Measures
from aprgraph.runtime.weights.rows import Index
from aprgraph.runtime.weights.tensor_pair import TensorPair

#: Of so large a share of blocks, of rows or of the blocks of a row one says that they are damaged; and where one side is 0 there.
_SHARE, _SHARE_OF_ZEROS = 0.1, 0.5
#: ggml's quantisers leave at most so many times the error that is expected of rounding.
_EXPECTED = 1.1
#: Blocks of a row of which one may be damaged.
_FEW = 4
_NAMED = 4


def is_damage(pair: TensorPair, found: Measures) -> bool:
    """Whether what differs is in few places, and the rest is the same up to rounding; or one side is 0 everywhere."""
    if not found.bad_units or not found.is_rounding_on_the_whole:
        return False
    if found.in_blocks and found.good_error > _EXPECTED * found.expected:  # all of it moved, some blocks further than others
        return False
    if max(found.bad_zeros) == found.bad_units and not any(found.not_finite):
        return found.bad_units <= _SHARE_OF_ZEROS * found.units or found.bad_units == found.units
    across = max(1, found.units // max(1, pair.rows_a.count))
    blocks = len(found.bad_blocks) <= max(_SHARE * across, 1 if across >= _FEW else 0)
    return found.bad_units <= _SHARE * found.units or len(found.bad_rows) <= _SHARE * pair.rows_a.count or blocks


def damage_in_words(pair: TensorPair, found: Measures) -> str:
    """``3 of 96 rows differ (rows 3, 17 and 40); B is 0 there``."""
    rows = np.array(sorted(found.bad_rows), np.int64)
    if found.bad_units == found.units and max(found.bad_zeros) == found.units:
        return f"{'A' if found.bad_zeros[0] else 'B'} is 0 everywhere"
    across = max(1, found.units // max(1, pair.rows_a.count))
    whole = sum(found.bad_rows.values()) == len(rows) * (found.units // max(1, found.elements // pair.rows_a.columns))
    if pair.is_vector:
        text = f"{len(rows):,} of {counted(pair.rows_a.count, 'element')} differ ({runs_in_words('element', rows)})"
    elif len(rows) == pair.rows_a.count and len(found.bad_blocks) < across:
        size = pair.rows_a.columns // across
        places = ", ".join(f"{at * size}..{(at + 1) * size - 1}" for at in sorted(found.bad_blocks)[:_NAMED])
        text = f"{len(found.bad_blocks):,} of {across:,} blocks of columns differ in every row (columns {places})"
    elif whole or found.bad_units > _NAMED:
        partly = "" if whole else " in some blocks"
        text = f"{len(rows):,} of {counted(pair.rows_a.count, 'row')} differ{partly} ({_rows_in_words(pair, rows)})"
    else:
        places = "; ".join(f"row {row}, columns {start}..{stop - 1}" for row, start, stop in found.bad_spans)
        text = f"{counted(found.bad_units, 'block')} of {found.units:,} {'differs' if found.bad_units == 1 else 'differ'} ({places})"
    return text + _what_is_there(found)


def not_finite_in_words(found: Measures) -> str:
    """``; A holds 3 NaN or Inf``, to be put behind a finding, and what made them infinite; empty if all is finite."""
    for side, other, count, over in zip("AB", "BA", found.not_finite, found.overflown, strict=True):
        if count:
            held = f"{count:,} Inf" if over == count else f"{count:,} NaN or Inf"
            why = f", where {other} has numbers beyond the largest of float16, {LARGEST_F16:,}" if over else ""
            return f"; {side} holds {held}{why}"
    return ""


def _rows_in_words(pair: TensorPair, rows: Index) -> str:
    if len(pair.a.dims) != 3:
        return runs_in_words("row", rows)
    experts = np.unique(rows // pair.matrix_rows)
    return f"{runs_in_words('expert', experts)}, {runs_in_words('row', np.unique(rows % pair.matrix_rows))}"


def _what_is_there(found: Measures) -> str:
    if any(found.not_finite):
        return not_finite_in_words(found)
    zeros = [side for side, count in zip("AB", found.bad_zeros, strict=True) if count == found.bad_units]
    return f"; {zeros[0]} is 0 there" if zeros else ""
