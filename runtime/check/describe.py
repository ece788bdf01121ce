"""Places and shapes in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aprgraph.graph.words import plural
from aprgraph.runtime.check.survey import SurveyedTensor
from aprgraph.runtime.check.surveyed_matrix import Place

#: What a sentence names of many.
NAMED = 4


#: What errors end with that says what to do, which a finding says by itself.
_ADVICE = (
    "; the conversion was incomplete",
    "; the checkpoint is incomplete",
    "; download the file again",
    "; convert the model again",
    "; give the prompt",
    "; supported: ",
    ": copy or download it again",
    "; copy or download the file again",
    "; the file is damaged",
    "; change the messages",
)


def text_of(error: Exception, path: Path, name: str) -> str:
    """What an error says, without the path and the ``name`` (of a key or a tensor) that stand before it, and without what to do."""
    text = str(error).removeprefix(f"{path}: ")
    for prefix in (f"tensor {name!r} ", f"metadata key {name!r} ", f"field {name!r} ", f"{name} "):
        text = text.removeprefix(prefix) if name else text
    for advice in _ADVICE:
        text = text.partition(advice)[0]
    return text


def as_runs(numbers: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, one past the last)."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(numbers, breaks)]


def runs_in_words(noun: str, numbers: npt.NDArray[np.intp]) -> str:
    """``rows 3, 7 to 9 and 12 more``."""
    runs = as_runs(numbers)
    named = [str(start) if stop == start + 1 else f"{start} to {stop - 1}" for start, stop in runs[:NAMED]]
    rest = sum(stop - start for start, stop in runs[NAMED:])
    return f"{plural(numbers.size, noun)} {', '.join(named)}{f' and {rest:,} more' if rest else ''}"


def describe_nonfinite(found: SurveyedTensor) -> str:
    """``3 blocks with NaN scales (rows 0, 14, 187)``."""
    parts = [
        _count(number, kind, found.info.format.arrives_in_blocks)
        for number, kind in ((found.nan, "NaN"), (found.inf, "infinite"))
        if number
    ]
    return f"{' and '.join(parts)} ({describe_places(found, [place for matrix in found.matrices for place in matrix.places])})"


def describe_places(found: SurveyedTensor, places: Sequence[Place]) -> str:
    """``row 3, columns 32 to 63``, ``rows 0, 1, 19``, ``elements 5, 9``, or ``expert 2 row 5``, as the tensor has them."""
    first = places[0]
    if found.is_vector:
        return _listed("element", [place.start for place in places])
    if len(found.matrices) > 1:
        named = list(dict.fromkeys(f"expert {place.matrix} row {place.row}" for place in places))
        return ", ".join(named[:NAMED]) + (" …" if len(named) > NAMED else "")
    if len(places) == 1:
        columns = f"column {first.start}" if first.stop == first.start + 1 else f"columns {first.start} to {first.stop - 1}"
        return f"row {first.row}, {columns}"
    return _listed("row", [place.row for place in places])


def _listed(noun: str, numbers: Sequence[int]) -> str:
    distinct = list(dict.fromkeys(numbers))
    more = " …" if len(distinct) > NAMED else ""
    return f"{plural(len(distinct), noun)} {', '.join(map(str, distinct[:NAMED]))}{more}"


def _count(number: int, kind: str, blocks: bool) -> str:
    if blocks:
        return f"1 block with a{'n' if kind[0] == 'i' else ''} {kind} scale" if number == 1 else f"{number:,} blocks with {kind} scales"
    return f"1 {kind} element" if number == 1 else f"{number:,} {kind} elements"
