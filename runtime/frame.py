"""Tables as columns of plain Python values: a dict of lists, of which ``pandas.DataFrame`` and ``polars.DataFrame`` both make a table.

A column holds values of one type, and None where there is no answer; neither library is needed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aprgraph.graph.words import shape_text
from aprgraph.runtime.place import Place


def frame_of(keys: Sequence[Place], shapes: Sequence[tuple[int, ...] | None] | None = None) -> dict[str, list[Any]]:
    """The columns that a table of tensors begins with: what ``Trace`` calls each, where it stands, and its shape, ``7 x 576``."""
    return {
        "tensor": [key.name for key in keys],
        "step": [key.step for key in keys],
        "layer": [key.layer for key in keys],
        "stage": [key.stage for key in keys],
        **({} if shapes is None else {"shape": [None if shape is None else shape_text(shape) for shape in shapes]}),
    }


def real(value: float | None) -> float | None:
    """``value`` as a float, so that a column does not begin with whole numbers."""
    return None if value is None else float(value)
