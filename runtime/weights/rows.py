"""Rows of tensors of a model file, read and decoded a piece at a time: as they lie, stacked, and transposed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.sources.source import Misreading, Source, TensorInfo
from aprgraph.runtime.weights.decoded import Decoded
from aprgraph.runtime.weights.rounding import as_stored, decode_rows, unit_of

Index = npt.NDArray[np.int64]

#: Elements that are decoded in one go: they and what is made of them are to stay in the caches of a processor.
AT_ONCE = 1 << 17


#: The dtypes of 16-bit formats.
_HALVES = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
#: Samples that are remembered, and elements of one.
_KEPT, _MOST_KEPT = 3, 1 << 20


class Rows(Protocol):
    """Rows of ``columns`` elements, ``count`` of them; ``unit`` columns are rounded together, 1 if each is by itself."""

    count: int
    columns: int
    unit: int

    def fetch(self, rows: Index) -> Decoded:
        """The rows of these numbers, decoded. Raises ModelFileError."""


class StackedRows:
    """The rows of tensors of one file, one tensor after the other; of experts, the rows of all. A vector is one row."""

    def __init__(self, file: Source, tensors: Sequence[TensorInfo]) -> None:
        self._file, self.tensors = file, tuple(tensors)
        self.columns = tensors[0].dims[-1]
        self.unit = max(unit_of(info) for info in tensors)
        counts = [math.prod(info.dims[:-1]) for info in tensors]
        self._ends = np.cumsum(counts)
        self.count = int(self._ends[-1])

    def fetch(self, rows: Index) -> Decoded:
        if len(self.tensors) == 1:
            return self._fetch(self.tensors[0], rows)
        owners = np.searchsorted(self._ends, rows, side="right")
        shape = (len(rows), self.columns)
        values, radius, outer = np.empty(shape, np.float32), np.empty(shape, np.float32), np.zeros(shape, np.bool_)
        for owner in np.unique(owners):
            here = owners == owner
            start = int(self._ends[owner - 1]) if owner else 0
            part = self._fetch(self.tensors[owner], rows[here] - start)
            values[here], radius[here] = part.values, part.radius
            if part.outer is not None:
                outer[here] = part.outer
        return Decoded(values, radius, outer)

    def _fetch(self, info: TensorInfo, rows: Index) -> Decoded:
        row_bytes = info.row_bytes
        raw = np.empty((len(rows), row_bytes), np.uint8)
        radius = None if info.radius is None else np.empty((len(rows), info.dims[-1]), np.float32)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            if stop > start:
                self._file.read(info, int(rows[start]) * row_bytes, raw[start:stop])
                if radius is not None and info.radius is not None:
                    radius[start:stop] = info.radius(int(rows[start]), int(rows[stop - 1]) + 1)
        decoded = self._decode(info, raw)
        return decoded if radius is None else Decoded(decoded.values, radius + decoded.radius)

    def _decode(self, info: TensorInfo, raw: npt.NDArray[np.uint8]) -> Decoded:
        return as_stored(decode_rows(info.format, raw, self.columns), info.stored)


class MisreadRows:
    """The rows of a tensor of packed integers as a reader has them who makes a mistake."""

    def __init__(self, info: TensorInfo, misreading: Misreading) -> None:
        self._misreading = misreading
        self.columns, self.count = info.dims[-1], math.prod(info.dims[:-1])
        self.unit = unit_of(info)

    def fetch(self, rows: Index) -> Decoded:
        """See ``Rows.fetch``."""
        values, radius = (np.empty((len(rows), self.columns), np.float32) for _ in range(2))
        breaks = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
        with np.errstate(invalid="ignore", over="ignore"):
            for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
                if stop > start:
                    first, last = int(rows[start]), int(rows[stop - 1]) + 1
                    values[start:stop] = self._misreading.values(first, last)
                    radius[start:stop] = self._misreading.radius(first, last)
        return Decoded(values, radius)


class RememberedRows:
    """Other rows, of which those that were asked for last are not decoded again: explanations are tried on the same few."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.count, self.columns, self.unit = rows.count, rows.columns, rows.unit
        self._kept: OrderedDict[bytes, Decoded] = OrderedDict()

    def fetch(self, rows: Index) -> Decoded:
        if len(rows) * self.columns > _MOST_KEPT or not len(rows) or rows[-1] - rows[0] == len(rows) - 1:  # of all of a tensor
            return self.rows.fetch(rows)
        key = rows.tobytes()
        if key not in self._kept:
            self._kept[key] = self.rows.fetch(rows)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


class ReorderedRows:
    """Other rows in another order, or some of them: row i is the row ``order[i]`` of ``rows``."""

    def __init__(self, rows: Rows, order: Index) -> None:
        self._rows, self._order = rows, order
        self.count, self.columns, self.unit = len(order), rows.columns, rows.unit

    def fetch(self, rows: Index) -> Decoded:
        return self._rows.fetch(self._order[rows])


class ReorderedColumns:
    """Rows with their columns in another order: column i is the column ``order[i]`` of ``rows``."""

    def __init__(self, rows: Rows, order: Index) -> None:
        self._rows, self._order = rows, order
        self.count, self.columns, self.unit = rows.count, rows.columns, rows.unit

    def fetch(self, rows: Index) -> Decoded:
        found, order = self._rows.fetch(rows), self._order
        return Decoded(found.values[:, order], found.radius[:, order], None if found.outer is None else found.outer[:, order])


class ByteSwappedRows(StackedRows):
    """The rows of tensors whose numbers of two and more bytes have their bytes in the other order."""

    def _decode(self, info: TensorInfo, raw: npt.NDArray[np.uint8]) -> Decoded:
        blocks = np.ascontiguousarray(raw).reshape(-1, info.format.block_bytes).copy()
        for part in info.format.fields:
            if part.itemsize > 1:
                at = slice(info.format.offset(part.name), info.format.offset(part.name) + part.count * part.itemsize)
                blocks[:, at] = blocks[:, at].reshape(len(blocks), -1, part.itemsize)[..., ::-1].reshape(len(blocks), -1)
        with np.errstate(invalid="ignore", over="ignore"):  # where it is no other byte order, anything comes out
            return super()._decode(info, blocks.reshape(raw.shape))


class OtherHalfRows:
    """Rows of numbers that are all of the 16-bit format ``taken`` ("F16", "BF16"), with their bits read as those of ``meant``.

    Values that ``taken`` cannot hold were not made so: they are NaN here.
    """

    def __init__(self, rows: Rows, taken: str, meant: str) -> None:
        self._rows, self._taken, self._meant = rows, _HALVES[taken], BLOCK_FORMATS[meant]
        self.count, self.columns, self.unit = rows.count, rows.columns, rows.unit

    def fetch(self, rows: Index) -> Decoded:
        values = self._rows.fetch(rows).values
        with np.errstate(over="ignore", invalid="ignore"):
            halves = values.astype(self._taken)
            is_held = halves.astype(np.float32) == values
            found = decode_rows(self._meant, halves.view(np.uint8), self.columns)
        return Decoded(np.where(is_held, found.values, np.float32(np.nan)), found.radius, found.outer)


class TransposedRows:
    """The columns of a tensor's matrices as rows: of [R, C], C rows; of experts [X, R, C], X times C rows."""

    unit = 1

    def __init__(self, file: Source, info: TensorInfo) -> None:
        self._file, self._info = file, info
        self.columns = info.dims[-2]
        self.count = math.prod(info.dims[:-2]) * info.dims[-1]

    def fetch(self, rows: Index) -> Decoded:
        info, step = self._info, self._info.format.elements
        width = info.dims[-1]
        raw = self._file.tensor_bytes(info).reshape(-1, info.dims[-2], info.row_bytes)
        values = np.empty((len(rows), self.columns), np.float32)
        radius, outer = np.empty_like(values), np.zeros(values.shape, np.bool_)
        for matrix in np.unique(rows // width):
            here = rows // width == matrix
            columns = rows[here] % width
            blocks = np.unique(columns // step)
            for start, stop in _runs(blocks):
                inside = here & (rows // width == matrix) & (rows % width // step >= start) & (rows % width // step < stop)
                bytes_ = raw[matrix, :, start * info.format.block_bytes : stop * info.format.block_bytes]
                part = decode_rows(info.format, np.ascontiguousarray(bytes_), (stop - start) * step)
                at = rows[inside] % width - start * step
                values[inside], radius[inside] = part.values.T[at], part.radius.T[at]
                if part.outer is not None:
                    outer[inside] = part.outer.T[at]
        self._file.release()
        return Decoded(values, radius, outer)


def _runs(numbers: Index) -> Iterator[tuple[int, int]]:
    """The runs of ascending numbers: first and end."""
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
        yield int(run[0]), int(run[-1]) + 1


def rows_of(file: Source, *tensors: TensorInfo) -> StackedRows:
    """The rows of tensors of the same dims; elements of a vector are rows of one element, so that they can be in another order."""
    first = tensors[0]
    if math.prod(first.dims[:-1]) == 1 and all(info.format.is_plain and info.radius is None for info in tensors):
        return StackedRows(file, [replace(info, dims=(info.dims[-1], 1)) for info in tensors])
    return StackedRows(file, tensors)


def pieces(count: int, columns: int) -> Iterator[Index]:
    """Row numbers, as many as are decoded in one go."""
    step = max(1, AT_ONCE // columns)
    for start in range(0, count, step):
        yield np.arange(start, min(start + step, count))
