"""What kernels take and give, as NumPy arrays: the same on every machine that they run on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import decode_by_gguf, weight_format, weight_storage
from aprgraph.graph.ir import Node
from aprgraph.graph.model import Model
from aprgraph.runtime.statistics import Statistics, statistics_from_sums


def weight_array(model: Model, node: Node) -> npt.NDArray[Any]:
    """The weight of a `weight` node as kernels take it: the file's own pages, unless only the `gguf` package decodes its format."""
    dtype, dims = weight_storage(node.type)
    raw = model.file.tensor_bytes(model.tensor(node.attr_str("tensor")))
    fmt = weight_format(node.type)
    if fmt.is_decoded_when_bound:
        return decode_by_gguf(fmt, raw, dims)
    return raw.reshape(-1).view(dtype).reshape(dims)


def statistics_from_rows(count: int, rows: npt.NDArray[np.float64]) -> Statistics:
    """The statistics of a tensor of ``count`` elements, from what the statistics kernel wrote [chunks, STATISTICS_COLUMNS]."""
    nan, inf, low, high, total, squares = rows[0].tolist()
    if len(rows) > 1:
        nan, inf, _, _, total, squares = rows.sum(axis=0).tolist()
        low, high = float(rows[:, 2].min()), float(rows[:, 3].max())
    return statistics_from_sums(count, int(nan), int(inf), low, high, total, squares)
