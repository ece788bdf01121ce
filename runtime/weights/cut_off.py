"""Whether a bfloat16 side was made by leaving out lower bits of the other's numbers instead of rounding to nearest."""

from __future__ import annotations

import numpy as np

from aprgraph.runtime.weights.fit import sample_of
from aprgraph.runtime.weights.rows import Index, pieces
from aprgraph.runtime.weights.tensor_pair import TensorPair


def is_cut_off(pair: TensorPair) -> str:
    """A sentence if that is so of some rows, of a tensor all of which is rounded; empty if not."""
    formats = pair.a.stored or pair.a.format.name, pair.b.stored or pair.b.format.name
    if "BF16" not in formats or not {"F32", "F16"} & set(formats):
        return ""
    is_b = formats[1] == "BF16"
    cut = _is_cut(pair, sample_of(pair.rows_a), is_b=is_b)
    return f"BF16 of {'B' if is_b else 'A'} was cut off, not rounded to nearest" if cut else ""


def is_all_cut_off(pair: TensorPair) -> str:
    """The sentence of ``is_cut_off`` if that is so of every element: it may take them twice as far as rounding."""
    text = is_cut_off(pair)
    is_b = (pair.b.stored or pair.b.format.name) == "BF16"
    rows = pair.rows_a
    return text if text and all(_is_cut(pair, piece, is_b=is_b, is_sure=False) for piece in pieces(rows.count, rows.columns)) else ""


def _is_cut(pair: TensorPair, rows: Index, *, is_b: bool, is_sure: bool = True) -> bool:
    """Whether one side has the upper halves of the other's numbers; ``is_sure``: some of which rounding would change."""
    sides = [side.fetch(rows).values.view(np.uint32) for side in (pair.rows_a, pair.rows_b)]
    exact, short = sides if is_b else sides[::-1]
    cut = bool(((exact & 0xFFFF0000) == short).all())
    return cut and (not is_sure or bool(((exact & 0xFFFF) > 0x8000).any()))
