"""Weights of AWQ (Lin et al. 2023, arXiv:2306.00978), as AutoAWQ stores them for its `gemm` kernels.

A layer of C inputs and R outputs: `qweight` I32 [C, R / 8], eight integers of 4 bits in a word, which are those of the
outputs 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on; `qzeros` I32 [G, R / 8] alike; `scales` [G, R]. The weight is
(q − z) · scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.sources.checkpoint.affine import OF_AWQ, Affine
from aprgraph.graph.sources.checkpoint.quantized_modules import Decoding, require_matrix, require_scales, words_of
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import elements
from aprgraph.graph.words import shape_text

_BITS, _IN_WORD = 4, 8
#: The bits at which the outputs 0 to 7 of a word begin.
_SHIFTS = np.array([0, 16, 4, 20, 8, 24, 12, 28], np.uint32)


@dataclass(frozen=True)
class Awq:
    """``group_size``: inputs that share a scale; -1 for all."""

    group_size: int

    kind: ClassVar[str] = "AWQ"
    known_by: ClassVar[str] = "qweight"
    dtype: ClassVar[str | None] = None
    parts: ClassVar[Mapping[str, bool]] = {"qzeros": True, "scales": True}

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """See ``ModuleFormat.weight``."""
        packed, scales, zeros = parts["qweight"], parts["scales"], parts["qzeros"]
        require_matrix(packed, ("I32",))
        columns, words = packed.dims
        size = columns if self.group_size < 0 else self.group_size
        if columns % size:
            raise ModelFileError(
                f"{packed.file.path}: tensor {shown(packed.name)} is {shape_text(packed.dims)}, which no groups of {size} inputs fill "
                "(group_size in config.json)"
            )
        require_scales(scales, (columns // size, words * _IN_WORD))
        require_matrix(zeros, ("I32",), (columns // size, words))

        def factors(start: int, stop: int) -> npt.NDArray[np.number]:
            return elements(scales)[:, start:stop].T.astype(np.float32)

        rows = words * _IN_WORD
        layer = Affine(
            rows,
            columns,
            _BITS,
            partial(_unpacked, packed),
            factors,
            partial(_unpacked, zeros),
            lambda: np.arange(columns) // size,
            along_rows=True,
            by_group=True,
            order=OF_AWQ,
        )
        return layer.decoding((rows, columns))


def _unpacked(tensor: StoredTensor, start: int, stop: int) -> npt.NDArray[np.number]:
    """The integers of the outputs from ``start`` to ``stop``, [outputs, inputs or groups]."""
    first, last = start // _IN_WORD, -(-stop // _IN_WORD)
    fields = words_of(tensor)[:, first:last, None] >> _SHIFTS & np.uint32(15)
    return fields.reshape(tensor.dims[0], -1)[:, start - first * _IN_WORD : stop - first * _IN_WORD].astype(np.uint8).T


def read_awq(given: Mapping[str, Any], where: Path) -> Awq:
    """The format that a `quantization_config` describes. Raises ModelError or UnsupportedModelError."""
    bits, size = given.get("bits", given.get("w_bit", _BITS)), given.get("group_size", given.get("q_group_size", 128))
    if type(bits) is not int or bits != _BITS:
        raise UnsupportedModelError(f"{where}: quantization_config.bits is {shown(bits)}; supported for AWQ is 4")
    if type(size) is not int or size == 0 or size < -1:
        what = f"{where}: quantization_config.group_size is {shown(size)}"
        raise ModelError(f"{what}, expected a number of inputs, or -1 for all; correct it")
    layout = given.get("version", given.get("format", "gemm"))
    if not isinstance(layout, str) or layout.lower() != "gemm":
        raise UnsupportedModelError(
            f"{where}: quantization_config.version is {shown(layout)}; supported for AWQ is gemm: save the checkpoint so, or give the one "
            "that it was quantised from"
        )
    return Awq(size)
