"""Parts of weights that are 0: lost by damage, or left so by padding, pruning, and tokens that nobody uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aprgraph.graph.sources.source import TensorInfo
from aprgraph.runtime.check.describe import NAMED, as_runs, runs_in_words
from aprgraph.runtime.check.finding import Finding
from aprgraph.runtime.check.survey import SurveyedTensor
from aprgraph.runtime.check.surveyed_matrix import SurveyedMatrix

#: Tensors of which rows may be 0: those of tokens that nobody uses.
_TABLES = ("token_embd.weight", "output.weight")
#: Fewer columns of a plain matrix side by side may be 0 because training made them so.
_COLUMNS = 16
#: Bytes of zeros that make a hole: less than a page of a disk is none. Holes begin and end at pages.
_HOLE = 4096
_GATE, _UP, _DOWN = "ffn_gate", "ffn_up", "ffn_down"

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ZeroParts:
    """Rows and columns of a matrix that are 0, and a stretch of the file that is; ``expert`` is None of a tensor of one matrix."""

    info: TensorInfo
    expert: int | None
    is_zero: bool
    row_count: int
    rows: Indices
    columns: Indices
    hole: str | None


def zero_parts(found: SurveyedTensor) -> list[ZeroParts]:
    """The matrices of a tensor that hold such parts."""
    if found.is_vector or all(matrix.is_zero for matrix in found.matrices):
        return []
    parts = []
    for matrix in found.matrices:
        rows, columns, hole = np.flatnonzero(~matrix.live_rows), _columns(found, matrix), _hole(found, matrix)
        if rows.size or columns.size or hole:
            expert = matrix.index if len(found.matrices) > 1 else None
            parts.append(ZeroParts(found.info, expert, matrix.is_zero, matrix.rows, rows, columns, hole))
    return parts


def judge_zeros(found: Sequence[ZeroParts]) -> Iterator[Finding]:
    """What is wrong with such parts of the tensors of a file."""
    by_place = {(part.info.name, part.expert): part for part in found}
    texts: dict[tuple[str, str], list[str]] = {}
    for part in found:
        expert = "" if part.expert is None else f"expert {part.expert}: "
        name, rows = part.info.name, f"{runs_in_words('row', part.rows)} of {part.row_count:,}" if part.rows.size else ""
        if part.is_zero:
            texts.setdefault(("weight-zero-part", name), []).append(f"{expert}all of it")
            continue
        if part.rows.size:
            meant = name in _TABLES or _is_unused_neurons(part, by_place)
            texts.setdefault(("weight-zero-rows" if meant else "weight-zero-part", name), []).append(f"{expert}{rows}")
        if part.columns.size:
            code = "weight-zero-rows" if _reads_nothing(part, by_place) else "weight-zero-part"
            texts.setdefault((code, name), []).append(f"{expert}{runs_in_words('column', part.columns)} of every row")
        if part.hole:
            texts.setdefault(("weight-hole", name), []).append(f"{expert}{part.hole}")
    for (code, name), items in texts.items():
        more = f"; and {len(items) - NAMED} more" if len(items) > NAMED else ""
        yield Finding.of(code, name, "; ".join(items[:NAMED]) + more)


def _other(part: ZeroParts, own: str, other: str, by_place: Mapping[tuple[str, int | None], ZeroParts]) -> ZeroParts | None:
    return by_place.get((part.info.name.replace(own, other), part.expert))


def _is_unused_neurons(part: ZeroParts, by_place: Mapping[tuple[str, int | None], ZeroParts]) -> bool:
    """Whether the same rows of gate and up are 0: neurons that were pruned, or are padding."""
    for own, other in ((_GATE, _UP), (_UP, _GATE)):
        if own in part.info.name:
            twin = _other(part, own, other, by_place)
            return twin is not None and np.array_equal(twin.rows, part.rows)
    return False


def _reads_nothing(part: ZeroParts, by_place: Mapping[tuple[str, int | None], ZeroParts]) -> bool:
    """Whether the columns that are 0 are those of neurons that are 0 anyhow."""
    up = _other(part, _DOWN, _UP, by_place) if _DOWN in part.info.name else None
    return up is not None and bool(np.isin(part.columns, up.rows).all())


def _columns(found: SurveyedTensor, matrix: SurveyedMatrix) -> Indices:
    """The columns that are 0 in every row: of blocks, those of all their elements; of plain numbers, where enough lie side by side."""
    dead = np.flatnonzero(~matrix.live_columns)
    if matrix.rows < 2 or not dead.size:
        return np.zeros(0, np.intp)
    if found.info.format.arrives_in_blocks:
        each = found.info.format.elements
        return (dead[:, None] * each + np.arange(each)).ravel()
    runs = [np.arange(start, stop) for start, stop in as_runs(dead) if stop - start >= _COLUMNS]
    return np.concatenate(runs) if runs else np.zeros(0, np.intp)


def _hole(found: SurveyedTensor, matrix: SurveyedMatrix) -> str | None:
    """The longest stretch of zeros in the file that is not whole rows, in words."""
    across = len(matrix.live_columns)
    unit = found.info.row_bytes / across
    start, length = matrix.hole
    if length * unit < _HOLE:
        return None
    first = found.info.offset + matrix.index * matrix.rows * found.info.row_bytes + int(start * unit)
    last, last_unit = first + int(length * unit) - 1, start + length - 1
    # Rows of unused tokens, one after another, may be 0 but for a few elements. Where a hole begins or ends in a block, it is 0 or not.
    at_pages = all(min(end % _HOLE, -end % _HOLE) <= unit for end in (first, last + 1))
    if found.info.name in _TABLES and not at_pages:
        return None
    # Where experts lie one by one, the tensor does not say where in the file this one is.
    what = f"the bytes {first:,} to {last:,} of the file" if found.info.in_pieces is None else f"{last + 1 - first:,} bytes"
    return f"{what}, from row {start // across} to row {last_unit // across}"
