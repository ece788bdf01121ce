"""Tensors that scale a weight: one number for all of it, or one for each expert.

Files in NVFP4 have them (NVIDIA's second level of scales): llama.cpp multiplies the product of a matrix by them, and here what was
decoded is multiplied, which is the same but for rounding.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import decode_reference
from aprgraph.graph.ir import Node
from aprgraph.graph.sources.source import Source, TensorInfo


class Tensors(Protocol):
    """The tensors of a model file by name: a Model's, or a file's of which no more is known."""

    @property
    def file(self) -> Source:
        """The file."""

    def tensor(self, name: str) -> TensorInfo:
        """A tensor."""


def row_scales(model: Tensors, node: Node, start: int, stop: int) -> npt.NDArray[np.float64] | None:
    """What the rows start .. stop - 1 of the weight of a `weight` node are multiplied by, [rows, 1]; None where nothing is.

    Rows are those of all experts, one after the other.
    """
    name = str(node.attrs.get("scale", ""))
    if not name:
        return None
    info = model.tensor(name)
    scales = decode_reference(info.format, model.file.tensor_bytes(info), (info.dims[-1],))
    rows = np.arange(start, stop)
    expert = rows // node.type.bind()[-2] if len(scales) > 1 else np.zeros_like(rows)
    return scales[expert][:, None]
