"""What kernels take and give, as NumPy arrays: the same on every machine that they run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import decode_by_gguf, decode_minima, weight_format, weight_storage
from aprgraph.graph.calling_convention import STATISTICS_CHUNK, STATISTICS_COLUMNS
from aprgraph.graph.ir import Node
from aprgraph.graph.ops.sources import MINIMA
from aprgraph.graph.weight_pieces import InPieces, packed, places_from, split
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics, statistics_from_sums
from aprgraph.runtime.weight_scales import Tensors, row_scales

#: TVM's buffers begin at multiples of so many bytes.
_ALIGNMENT = 64
#: Bytes of an element.
_F32 = 4


def pieces_in_file(model: Tensors, node: Node) -> InPieces | None:
    """Where the matrices of a `weight` node lie, if not one after the other in the format of the tensor."""
    found = model.tensor(node.attr_str("tensor")).in_pieces
    return found if found is not None and found.format == weight_format(node.type) else None


def weight_array(model: Tensors, node: Node) -> npt.NDArray[Any]:
    """The weight of a `weight` node as kernels take it, packed: the file's own pages, unless only the `gguf` package decodes its
    format, the file has it in pieces, or the node is of a part of each block.
    """
    dtype, dims = weight_storage(node.type)
    pieces = pieces_in_file(model, node)
    if pieces is not None:
        return packed(node.type, pieces.find()).view(dtype).reshape(dims)
    info = model.tensor(node.attr_str("tensor"))
    raw = model.file.tensor_bytes(info)
    if node.attrs.get("part") == MINIMA:
        return decode_minima(info.format, raw).astype(dtype).reshape(dims)
    fmt = weight_format(node.type)
    if fmt.is_decoded_when_bound:
        decoded = decode_by_gguf(fmt, raw, dims)
        scales = row_scales(model, node, 0, len(raw))
        return decoded if scales is None else (decoded.reshape(len(raw), -1) * scales.astype(np.float32)).reshape(dims)
    return raw.reshape(-1).view(dtype).reshape(dims)


@dataclass(frozen=True)
class InMemory:
    """A weight in pieces as kernels on this machine take it: ``span`` is all memory from the first piece to the end of the last,
    with whatever lies between, and ``places`` the table. ``held`` keeps the pieces there.
    """

    span: npt.NDArray[Any]
    places: npt.NDArray[np.int64]
    held: object


def weight_in_memory(model: Tensors, node: Node) -> InMemory:
    """The weight of a `weight` node that comes in pieces, each where it lies."""
    dtype, _ = weight_storage(node.type)
    found = pieces_in_file(model, node)
    pieces = split(node.type, weight_array(model, node).reshape(-1).view(np.uint8)) if found is None else found.find()
    views = [view for piece in pieces for view in (piece.blocks, piece.scales) if view is not None]
    first = min(view.ctypes.data for view in views) // _ALIGNMENT * _ALIGNMENT
    end = max(view.ctypes.data + (len(view) - 1) * view.strides[0] + view.shape[1] for view in views)
    count = -(-(end - first) // np.dtype(dtype).itemsize)
    return InMemory(np.asarray(_Memory(first, (count,), np.dtype(dtype).str)), places_from(first, node.type, pieces), pieces)


class _Memory:
    """Memory of the process as an array, wherever it is."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: str) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype, "version": 3}


class _Exportable:
    """A read-only array that says that it may be written to; NumPy keeps it, and with it the array, as the owner of the memory."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def exportable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``array`` as DLPack hands it on, which NumPy does not do with what is read-only. Whoever writes there all the same is stopped by
    the system, for the file's pages stay what they are.
    """
    return np.asarray(_Exportable(array))


def statistics_of_all(
    kernel: Callable[..., object], from_dlpack: Callable[[npt.NDArray[Any]], Any], values: Sequence[tuple[F32, int]]
) -> list[Statistics]:
    """The statistics of each of ``values``, arrays with their addresses, by one call of CHUNKS_KERNEL, ``kernel``.

    They lie anywhere in memory, one after the other in themselves. Their bits are those of ``statistics_from_rows``.
    """
    addresses = np.array([address for _, address in values])
    sizes = np.array([array.size for array, _ in values])
    chunks = -(-sizes // STATISTICS_CHUNK)
    before = np.cumsum(chunks) - chunks
    # Where each chunk begins in its tensor.
    starts = (np.arange(chunks.sum()) - np.repeat(before, chunks)) * STATISTICS_CHUNK
    first = int(addresses.min()) // _ALIGNMENT * _ALIGNMENT
    firsts = np.repeat((addresses - first) // _F32, chunks) + starts
    lengths = np.minimum(np.repeat(sizes, chunks) - starts, STATISTICS_CHUNK)
    span = np.asarray(_Memory(first, (int((firsts + lengths).max()),), "<f4"))
    rows = np.empty((len(firsts), STATISTICS_COLUMNS))
    kernel(*(from_dlpack(array) for array in (span, firsts, lengths, rows)))
    found = []
    for row, size, start, count in zip(rows[before].tolist(), sizes.tolist(), before.tolist(), chunks.tolist(), strict=True):
        found.append(_from_row(size, row) if count == 1 else statistics_from_rows(size, rows[start : start + count]))
    return found


def statistics_from_rows(count: int, rows: npt.NDArray[np.float64]) -> Statistics:
    """The statistics of a tensor of ``count`` elements, from what the statistics kernel wrote [chunks, STATISTICS_COLUMNS]."""
    if len(rows) == 1:
        return _from_row(count, rows[0].tolist())
    nan, inf, _, _, total, squares = rows.sum(axis=0).tolist()
    return _from_row(count, (nan, inf, float(rows[:, 2].min()), float(rows[:, 3].max()), total, squares))


def _from_row(count: int, row: Sequence[float]) -> Statistics:
    nan, inf, low, high, total, squares = row
    return statistics_from_sums(count, int(nan), int(inf), low, high, total, squares)
