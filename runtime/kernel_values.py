"""What kernels take and give, as NumPy arrays: the same on every machine that they run on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import decode_by_gguf, weight_format, weight_storage
from aprgraph.graph.ir import Node
from aprgraph.graph.model import Model
from aprgraph.runtime.trace.statistics import Statistics, statistics_from_sums
from aprgraph.runtime.weight_scales import row_scales


def weight_array(model: Model, node: Node) -> npt.NDArray[Any]:
    """The weight of a `weight` node as kernels take it: the file's own pages, unless only the `gguf` package decodes its format."""
    dtype, dims = weight_storage(node.type)
    raw = model.file.tensor_bytes(model.tensor(node.attr_str("tensor")))
    fmt = weight_format(node.type)
    if fmt.is_decoded_when_bound:
        decoded = decode_by_gguf(fmt, raw, dims)
        scales = row_scales(model, node, 0, len(raw))
        return decoded if scales is None else (decoded.reshape(len(raw), -1) * scales.astype(np.float32)).reshape(dims)
    return raw.reshape(-1).view(dtype).reshape(dims)


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


def statistics_from_rows(count: int, rows: npt.NDArray[np.float64]) -> Statistics:
    """The statistics of a tensor of ``count`` elements, from what the statistics kernel wrote [chunks, STATISTICS_COLUMNS]."""
    nan, inf, low, high, total, squares = rows[0].tolist()
    if len(rows) > 1:
        nan, inf, _, _, total, squares = rows.sum(axis=0).tolist()
        low, high = float(rows[:, 2].min()), float(rows[:, 3].max())
    return statistics_from_sums(count, int(nan), int(inf), low, high, total, squares)
