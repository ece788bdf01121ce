"""What one element of a tensor is called: ``position 2, head 1, element of a head 5``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from aprgraph.graph.ops import Array
from aprgraph.graph.stages import STAGE_BY_NAME

#: What the axes of the stage table are called; columns have many letters.
AXIS_NAMES: Mapping[str, str] = {
    "n": "position", "t": "key", "H": "head", "K": "KV head", "D": "element of a head", "X": "expert", "k": "choice", "V": "token",
}  # fmt: skip
COLUMN = "column"


def index_in_words(letters: Sequence[str], index: Iterable[object]) -> str:
    """The element at ``index`` of a tensor whose axes have ``letters``."""
    return ", ".join(f"{AXIS_NAMES.get(letter, COLUMN)} {at}" for letter, at in zip(letters, index, strict=True))


def first_in_words(stage: str, index: Sequence[int] | None, lead: str = ", first at ") -> str:
    """``lead`` and ``position 2, column 5``, to be put behind what was found in a ``stage``; nothing where it is not known where."""
    known = STAGE_BY_NAME.get(stage)
    if index is None or known is None or len(known.dims) != len(index):
        return ""
    return f"{lead}{index_in_words(known.dims, index)}"


def first_nonfinite(values: npt.NDArray[np.float32]) -> tuple[int, ...] | None:
    """The index of the first element that is NaN or Inf; None where there is none."""
    flat = np.flatnonzero(~np.isfinite(values.reshape(-1)))[:1]
    return tuple(int(at) for at in np.unravel_index(int(flat[0]), values.shape)) if flat.size else None


def largest_element(values: Array) -> tuple[float, int] | None:
    """The largest magnitude among the finite elements, and its place in the flat tensor; None where there is none."""
    size = np.abs(values.reshape(-1))
    size = np.where(np.isfinite(size), size, -1.0)
    flat = int(size.argmax()) if size.size else 0
    return (float(size[flat]), flat) if size.size and size[flat] >= 0 else None
