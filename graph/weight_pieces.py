"""Where the matrices of a weight lie: one after the other, or each in a place of its own, with its scales in another.

Kernels read a weight of experts, or one whose scales lie apart, through a table of places: wherever a file has a matrix, it
is read there. On a GPU, and on a server, the matrices are packed: one after the other, and behind all of them the scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import NumpyBlocks, decode_blocks, decode_reference, weight_format, weight_storage
from aprgraph.graph.ir import TensorType

Bytes = npt.NDArray[np.uint8]
#: Dims of a weight that holds the matrices of all experts.
_EXPERT_DIMS = 3


@dataclass(frozen=True)
class Piece:
    """One matrix: its rows, u8 [rows, bytes of a row], and the rows of its scales where these lie apart.

    Both are views of a file; rows may lie further apart than they are long. Of a format ``in_columns`` the lines of
    ``blocks`` are columns, u8 [columns, bytes of a column].
    """

    blocks: Bytes
    scales: Bytes | None = None


@dataclass(frozen=True)
class InPieces:
    """How a tensor lies in its file where that is not one matrix after the other in the tensor's own format.

    Each of ``finders`` gives the piece of one matrix, in ``format``.
    """

    format: BlockFormat
    finders: Sequence[Callable[[], Piece]]

    def find(self) -> list[Piece]:
        """All pieces."""
        return [find() for find in self.finders]


def comes_in_pieces(weight: TensorType) -> bool:
    """Whether kernels take a weight of this type with a table of places."""
    fmt = weight_format(weight)
    return len(weight.dims) == _EXPERT_DIMS or fmt.scales is not None or fmt.in_columns


def table_shape(weight: TensorType) -> tuple[int, int]:
    """Of the table of places: a row for each matrix, of where its blocks begin and how far apart their rows are, or their
    columns where these are its lines, and, where they lie apart, the same of its scales. Both in bytes, i64.
    """
    return _matrices(weight)[0], 4 if weight_format(weight).scales is not None else 2


def _matrices(weight: TensorType) -> tuple[int, int]:
    """How many matrices there are, and of how many rows."""
    dims = weight.bind()
    return math.prod(dims[:-2]), dims[-2] if len(dims) > 1 else 1


def packed_places(weight: TensorType) -> npt.NDArray[np.int64]:
    """The table of places of a packed weight."""
    fmt, columns, (count, rows) = weight_format(weight), weight.bind()[-1], _matrices(weight)
    table = np.empty(table_shape(weight), np.int64)
    dtype, dims = weight_storage(weight)
    row_bytes = math.prod(dims) * np.dtype(dtype).itemsize // (count * rows)
    if fmt.scales is not None:
        row_bytes = fmt.row_bytes(columns)
        groups, across = fmt.scales.dims(rows, columns // fmt.elements)
        start, _ = fmt.packed_bytes(count, rows, columns)
        table[:, 3] = across * fmt.scales.group_bytes
        table[:, 2] = start + np.arange(count) * (groups * table[0, 3])
    table[:, 1] = rows * fmt.block_bytes if fmt.in_columns else row_bytes
    table[:, 0] = np.arange(count) * (rows * row_bytes)
    return table


def packed_parts(weight: TensorType, pieces: Iterable[Piece]) -> Iterator[tuple[int, int, Bytes]]:
    """What a packed weight is put together of: the number of a matrix, where a part of it begins in the packed weight, in
    bytes, and the part.
    """
    for number, (place, piece) in enumerate(zip(packed_places(weight).tolist(), pieces, strict=True)):
        yield number, place[0], piece.blocks
        if piece.scales is not None:
            yield number, place[2], piece.scales


def packed(weight: TensorType, pieces: Sequence[Piece]) -> Bytes:
    """Pieces packed in memory, u8."""
    dtype, dims = weight_storage(weight)
    whole = np.zeros(math.prod(dims) * np.dtype(dtype).itemsize, np.uint8)
    for _, start, part in packed_parts(weight, pieces):
        whole[start : start + part.size].reshape(part.shape)[:] = part
    return whole


def read_pieces(tensor: InPieces, row_bytes: int, start: int, into: Bytes) -> None:
    """Fill ``into`` with the rows of pieces one after the other, of ``row_bytes`` bytes each, from the byte ``start`` on.

    What has scales is decoded to f32: of FP8 the product with a scale, rounded once.
    """
    size, done = rows_of(tensor.format, tensor.finders[0]()) * row_bytes, 0
    while done < into.size:
        number, begin = divmod(start + done, size)
        piece, count = tensor.finders[number](), min(size - begin, into.size - done)
        first, stop = begin // row_bytes, -(-(begin + count) // row_bytes)
        if tensor.format.in_columns:
            rows = _rows_across(tensor.format, piece, first, stop).reshape(-1)
        elif piece.scales is None:
            rows = piece.blocks[first:stop].reshape(-1)
        else:
            with np.errstate(over="ignore"):
                rows = decode_piece(tensor.format, piece, first, stop).astype(np.float32).reshape(-1).view(np.uint8)
        into[done : done + count] = rows[begin - first * row_bytes :][:count]
        done += count


def rows_of(fmt: BlockFormat, piece: Piece) -> int:
    """How many rows a piece has."""
    return piece.blocks.shape[1] // fmt.block_bytes if fmt.in_columns else len(piece.blocks)


def _rows_across(fmt: BlockFormat, piece: Piece, start: int, stop: int) -> Bytes:
    """The rows ``start`` .. ``stop`` - 1 of a piece whose lines are columns, u8 [rows, bytes of a row]."""
    size = fmt.block_bytes
    lines = piece.blocks[:, start * size : stop * size].reshape(len(piece.blocks), -1, size)
    return np.ascontiguousarray(lines.swapaxes(0, 1)).reshape(lines.shape[1], -1)


def split(weight: TensorType, whole: Bytes) -> list[Piece]:
    """The matrices of a weight that lie one after the other."""
    count, rows = _matrices(weight)
    return [Piece(matrix) for matrix in whole.reshape(count, rows, -1)]


def places_from(base: int, weight: TensorType, pieces: Sequence[Piece]) -> npt.NDArray[np.int64]:
    """The table of places of pieces that lie in memory, counted from the address ``base``."""
    table = np.empty(table_shape(weight), np.int64)
    for row, piece in zip(table, pieces, strict=True):
        for at, view in enumerate((piece.blocks, piece.scales)):
            if view is not None:
                row[2 * at : 2 * at + 2] = view.ctypes.data - base, view.strides[0]
    return table


def decode_piece(fmt: BlockFormat, piece: Piece, start: int, stop: int) -> npt.NDArray[np.float64]:
    """The rows ``start`` .. ``stop`` - 1 of a piece in float64."""
    blocks = _rows_across(fmt, piece, start, stop) if fmt.in_columns else piece.blocks[start:stop]
    columns = blocks.shape[1] // fmt.block_bytes * fmt.elements
    if fmt.scales is None or piece.scales is None:
        return decode_reference(fmt, blocks, (len(blocks), columns))
    across = blocks.shape[1] // fmt.block_bytes
    groups = piece.scales.reshape(len(piece.scales), -1, fmt.scales.group_bytes)
    rows = np.arange(start, start + len(blocks)) // fmt.scales.rows if fmt.scales.rows else np.zeros(len(blocks), np.intp)
    at = np.arange(across) // fmt.scales.blocks if fmt.scales.blocks else np.zeros(across, np.intp)
    scales = groups[rows[:, None], at].reshape(-1, fmt.scales.group_bytes)
    return decode_blocks(fmt, NumpyBlocks(fmt, blocks.reshape(-1, fmt.block_bytes), scales)).reshape(len(blocks), columns)
