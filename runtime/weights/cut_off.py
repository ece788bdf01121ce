"""Whether a bfloat16 side was made by leaving out the lower bits of float32 instead of rounding to nearest."""

from __future__ import annotations

import numpy as np

from aprgraph.runtime.weights.fit import sample_of
from aprgraph.runtime.weights.tensor_pair import TensorPair


def is_cut_off(pair: TensorPair) -> str:
    """A sentence if that is so; empty otherwise, or where it cannot be told."""
    formats = pair.a.stored or pair.a.format.name, pair.b.stored or pair.b.format.name
    if set(formats) != {"F32", "BF16"}:
        return ""
    rows = sample_of(pair.rows_a)
    sides = [side.fetch(rows).values.view(np.uint32) for side in (pair.rows_a, pair.rows_b)]
    exact, short = sides if formats[0] == "F32" else sides[::-1]
    cut = ((exact & 0xFFFF0000) == short).all() and ((exact & 0xFFFF) > 0x8000).any()
    return f"BF16 of {'B' if formats[0] == 'F32' else 'A'} was cut off, not rounded to nearest" if cut else ""
