"""Reads every tensor of a file once, from the disk through one small buffer, and keeps what was found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import decode_by_gguf
from aprgraph.graph.errors import ModelFileError
from aprgraph.graph.gguf_file import GGUFFile, TensorInfo
from aprgraph.runtime.check.scan_blocks import scan_blocks
from aprgraph.runtime.check.scan_plain import scan_plain
from aprgraph.runtime.check.surveyed_matrix import SurveyedMatrix

#: Bytes that are read and looked at in one go: they and what is made of them stay in the processor's cache.
_CHUNK = 1 << 19


@dataclass(frozen=True)
class SurveyedTensor:
    """A tensor and its matrices: one, or one for each expert."""

    info: TensorInfo
    matrices: tuple[SurveyedMatrix, ...]

    @property
    def nan(self) -> int:
        """How many scales, or elements of a plain format, are NaN."""
        return sum(matrix.nan for matrix in self.matrices)

    @property
    def inf(self) -> int:
        """How many are infinite."""
        return sum(matrix.inf for matrix in self.matrices)


def survey(file: GGUFFile, tensors: Iterable[TensorInfo]) -> Iterator[SurveyedTensor]:
    """Look at each of ``tensors``, in the order given. Raises ModelFileError for a file that can no longer be read."""
    try:
        descriptor = os.open(file.path, os.O_RDONLY)
    except OSError as error:
        raise ModelFileError(f"{file.path}: cannot be opened: {error.strerror}") from None
    try:
        for info in tensors:
            yield _survey_tensor(descriptor, file, info)
    finally:
        os.close(descriptor)


def _survey_tensor(descriptor: int, file: GGUFFile, info: TensorInfo) -> SurveyedTensor:
    columns = info.dims[-1]
    rows = info.dims[-2] if len(info.dims) > 1 else 1
    count = info.nbytes // (rows * info.row_bytes)
    at_once = max(1, _CHUNK // info.row_bytes)
    buffer = np.empty((min(at_once, rows), info.row_bytes), np.uint8)
    matrices = []
    for index in range(count):
        units = columns // info.format.elements if info.format.arrives_in_blocks else columns
        found = SurveyedMatrix.empty(index, rows, columns, units)
        start = info.offset + index * rows * info.row_bytes
        for row in range(0, rows, at_once):
            part = buffer[: min(at_once, rows - row)]
            _read(descriptor, file, part, start + row * info.row_bytes)
            _look_at(found, info, part, row)
        matrices.append(found)
    return SurveyedTensor(info, tuple(matrices))


def _look_at(found: SurveyedMatrix, info: TensorInfo, part: npt.NDArray[np.uint8], row: int) -> None:
    if info.format.arrives_in_blocks:
        scan_blocks(found, info.format, part, row)
    elif info.format.is_plain:
        scan_plain(found, info.format.fields[0].dtype, part, row)
    else:
        decoded = decode_by_gguf(info.format, part, (len(part), info.dims[-1]))
        scan_plain(found, "float32", decoded.view(np.uint8), row)


def _read(descriptor: int, file: GGUFFile, into: npt.NDArray[np.uint8], offset: int) -> None:
    view, done = into.data.cast("B"), 0
    while done < len(view):
        try:
            count = os.preadv(descriptor, [view[done:]], offset + done)
        except OSError as error:
            raise ModelFileError(
                f"{file.path}: cannot be read at byte {offset + done}: {error.strerror}; the disk may be failing"
            ) from None
        if not count:
            raise ModelFileError(f"{file.path}: became shorter while it was read; let whatever writes it finish")
        done += count
