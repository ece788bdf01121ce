"""Reads every tensor of a file once, from the disk through one small buffer, and keeps what was found."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import decode_by_gguf, decode_reference
from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.runtime.check.scan_blocks import octaves_of_blocks, scan_blocks
from aprgraph.runtime.check.scan_plain import octaves_of_elements, scan_plain
from aprgraph.runtime.check.surveyed_matrix import KEPT, Place, SurveyedMatrix

#: Bytes that are read and looked at in one go: they and what is made of them stay in the processor's cache.
_CHUNK = 1 << 19
#: A row of more bytes is not looked at: it is read whole, and no model has one.
LONGEST_ROW = 1 << 26
#: Bytes of each chunk by which tensors are told apart.
_SAMPLE = 4096
#: A vector of at most so many elements is kept as values.
_VALUES = 1 << 20
#: Elements of each chunk of a matrix in F16, BF16 or F32, and of all, that are kept as values.
_SOME, _MOST_SOME = 1024, 1 << 14
#: Called with the number of bytes that were read since the last call.
Progress = Callable[[int], None]
#: Finds where a tensor's scales of a field, or its elements, are of an octave or above: (tensor, field, octave).
Locate = Callable[[TensorInfo, str, int], list[Place]]


@dataclass(frozen=True)
class SurveyedTensor:
    """A tensor and its matrices: one, or one for each expert; of a vector that is not too long also its ``values``;
    ``some`` are elements from all over a matrix of a plain format.

    ``sample`` differs between tensors that differ in the bytes that were sampled.
    """

    info: TensorInfo
    matrices: tuple[SurveyedMatrix, ...]
    sample: int
    values: npt.NDArray[np.float64] | None = None
    some: npt.NDArray[np.float32] | None = None

    def octaves(self, field: str) -> npt.NDArray[np.int64]:
        """The histogram of a field over all matrices."""
        total: npt.NDArray[np.int64] = np.sum([matrix.octaves[field] for matrix in self.matrices], axis=0)
        return total

    @property
    def is_vector(self) -> bool:
        """Whether it has one dimension; some writers put ones before it."""
        return math.prod(self.info.dims[:-1]) == 1

    @property
    def nan(self) -> int:
        """How many scales, or elements of a plain format, are NaN."""
        return sum(matrix.nan for matrix in self.matrices)

    @property
    def inf(self) -> int:
        """How many are infinite."""
        return sum(matrix.inf for matrix in self.matrices)


@dataclass(frozen=True)
class _Part:
    """Whole rows of a matrix: u8 [rows, bytes of a row], good until the next part is read."""

    matrix: int
    row: int
    raw: npt.NDArray[np.uint8]


class Surveyor:
    """Looks at tensors of one file. Its methods raise ModelFileError for a file that can no longer be read."""

    def __init__(self, file: Source, progress: Progress | None = None) -> None:
        self._file, self._progress = file, progress

    def survey(self, info: TensorInfo) -> SurveyedTensor:
        """Look at one tensor, all of it; its rows must not be longer than LONGEST_ROW."""
        rows, columns = _rows(info), info.dims[-1]
        units = columns // info.format.elements if info.format.arrives_in_blocks else columns
        matrices: list[SurveyedMatrix] = []
        values = None
        sample, some = 0, list[npt.NDArray[np.float32]]()
        for part in self._parts(info):
            if part.matrix == len(matrices):
                matrices.append(SurveyedMatrix.empty(part.matrix, rows, columns, units))
            sample = zlib.crc32(part.raw.reshape(-1)[:_SAMPLE].data, sample)
            _look_at(matrices[-1], info, part)
            if info.format.is_plain and len(some) * _SOME < _MOST_SOME:
                some.append(_first(info, part.raw))
            if math.prod(info.dims[:-1]) == 1 and columns <= _VALUES:
                values = decode_reference(info.format, part.raw, (columns,))
        return SurveyedTensor(info, tuple(matrices), sample, values, np.concatenate(some) if some else None)

    def locate(self, info: TensorInfo, field: str, octave: int) -> list[Place]:
        """See ``Locate``."""
        places: list[Place] = []
        for part in self._parts(info, again=True):
            if info.format.arrives_in_blocks:
                octaves, width = octaves_of_blocks(info.format, field, part.raw), info.format.elements
            else:
                octaves, width = octaves_of_elements(*_plain(info, part.raw)), 1
            for row, unit in np.argwhere(octaves >= octave)[: KEPT - len(places)].tolist():
                places.append(Place(part.row + row, unit * width, (unit + 1) * width, part.matrix))
            if len(places) == KEPT:
                break
        return places

    def _parts(self, info: TensorInfo, *, again: bool = False) -> Iterator[_Part]:
        """The tensor piece by piece; a second reading is no progress."""
        rows = _rows(info)
        at_once = min(max(1, _CHUNK // info.row_bytes), rows)
        buffer = np.empty((at_once, info.row_bytes), np.uint8)
        for start in range(0, info.nbytes // info.row_bytes, rows):
            for row in range(0, rows, at_once):
                raw = buffer[: min(at_once, rows - row)]
                self._file.read(info, (start + row) * info.row_bytes, raw)
                if self._progress is not None and not again:
                    self._progress(raw.size)
                yield _Part(start // rows, row, raw)


def _rows(info: TensorInfo) -> int:
    return info.dims[-2] if len(info.dims) > 1 else 1


def _look_at(found: SurveyedMatrix, info: TensorInfo, part: _Part) -> None:
    if info.format.arrives_in_blocks:
        scan_blocks(found, info.format, part.raw, part.row)
    else:
        scan_plain(found, *_plain(info, part.raw), part.row)


def _first(info: TensorInfo, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The first elements of some rows of a plain format."""
    size = info.format.block_bytes // info.format.elements
    first = np.ascontiguousarray(raw.reshape(-1)[: _SOME * size])
    with np.errstate(invalid="ignore"):  # a NaN that says so whenever it is converted
        return np.asarray(decode_reference(info.format, first, (first.size // size,)), np.float32)


def _plain(info: TensorInfo, raw: npt.NDArray[np.uint8]) -> tuple[str, npt.NDArray[np.uint8]]:
    """Rows of a plain format, or decoded to one: its dtype and its bytes."""
    if info.format.is_plain:
        return info.format.fields[0].dtype, raw
    return "float32", decode_by_gguf(info.format, raw, (len(raw), info.dims[-1])).view(np.uint8)
