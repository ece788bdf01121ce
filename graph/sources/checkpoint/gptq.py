"""Weights of GPTQ (Frantar et al. 2022, arXiv:2210.17323), as AutoGPTQ and gptqmodel store them.

A layer of C inputs and R outputs: `qweight` I32 [C · bits / 32, R], integers of 2, 3, 4 or 8 bits packed along the
inputs; `scales` [G, R]; `qzeros` I32 [G, R · bits / 32], packed along the outputs; `g_idx` I32 [C], the group of each
input, out of order after `desc_act`. The weight is (q − z) · scale. In the format `gptq`, z − 1 is stored, modulo
2^bits, so that all ones mean 0, as z is an integer of that many bits too (one of AutoGPTQ's layers takes 2^bits there);
in `gptq_v2`, z itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.sources.checkpoint.affine import Affine
from aprgraph.graph.sources.checkpoint.quantized_modules import (
    Decoding,
    groups_of,
    require_matrix,
    require_scales,
    unpack_words,
    words_of,
)
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import elements
from aprgraph.graph.words import shape_text

_BITS = (2, 3, 4, 8)
#: What is added to a stored zero point.
_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


@dataclass(frozen=True)
class Gptq:
    """``bits`` and ``group_size`` are those of layers without `g_idx`; ``zero_offset`` is added to zero points."""

    bits: int
    group_size: int
    zero_offset: int

    kind: ClassVar[str] = "GPTQ"
    known_by: ClassVar[str] = "qweight"
    dtype: ClassVar[str | None] = None
    parts: ClassVar[Mapping[str, bool]] = {"qzeros": True, "scales": True, "g_idx": False}

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """See ``ModuleFormat.weight``."""
        packed, scales, zeros, groups = parts["qweight"], parts["scales"], parts["qzeros"], parts.get("g_idx")
        require_matrix(packed, ("I32",))
        require_scales(scales)
        rows, count = packed.dims[1], scales.dims[0]
        columns, bits = packed.dims[0] * 32 // self.bits, self.bits
        if groups is not None:
            require_matrix(groups, ("I32",), (groups.dims[0] if groups.dims else 0,))
            columns = groups.dims[0]
            bits = packed.dims[0] * 32 // columns  # layers may differ (`dynamic`)
        if bits not in _BITS or packed.dims[0] * 32 != columns * bits or rows * bits % 32:
            raise ModelFileError(
                f"{packed.file.path}: tensor {shown(packed.name)} is {shape_text(packed.dims)}, for {columns} inputs; expected integers of "
                f"2, 3, 4 or 8 bits that fill words of 32 bits (config.json says {self.bits})"
            )
        size = columns if self.group_size <= 0 else self.group_size
        wanted = count if groups is not None else -(-columns // size)
        require_scales(scales, (wanted, rows))
        require_matrix(zeros, ("I32",), (wanted, rows * bits // 32))
        mask = np.uint8((1 << bits) - 1)

        def codes(start: int, stop: int) -> npt.NDArray[np.number]:
            return unpack_words(words_of(packed)[:, start:stop], bits).T

        def zero_points(start: int, stop: int) -> npt.NDArray[np.number]:
            stored = unpack_words(np.ascontiguousarray(words_of(zeros).T), bits)[start:stop]
            return stored + np.uint8(self.zero_offset) & mask

        def factors(start: int, stop: int) -> npt.NDArray[np.number]:
            return elements(scales)[:, start:stop].T.astype(np.float32)

        def group_of_each() -> npt.NDArray[np.integer]:
            """Raises ModelFileError for one that is not there."""
            return np.arange(columns) // size if groups is None else groups_of(groups, count)

        layer = Affine(rows, columns, bits, codes, factors, zero_points, group_of_each, by_group=True)
        return layer.decoding((rows, columns))


def read_gptq(given: Mapping[str, Any], where: Path) -> Gptq:
    """The format that a `quantization_config` describes. Raises ModelError or UnsupportedModelError."""
    bits, size = given.get("bits"), given.get("group_size", 128)
    if type(bits) is not int or bits not in _BITS:
        raise UnsupportedModelError(f"{where}: quantization_config.bits is {shown(bits)}; supported for GPTQ are 2, 3, 4 and 8")
    if type(size) is not int or size == 0 or size < -1:
        what = f"{where}: quantization_config.group_size is {shown(size)}"
        raise ModelError(f"{what}, expected a number of inputs, or -1 for all; correct it")
    for name in ("checkpoint_format", "format"):
        layout = given.get(name)
        if layout is not None:
            break
    layout = "gptq" if layout is None else layout
    offset = _ZERO_OFFSETS.get(layout.lower()) if isinstance(layout, str) else None
    words = given.get("pack_dtype", "int32")
    if offset is None or given.get("is_marlin_format") or words not in ("int32", None):
        what = f"{name} is {shown(layout)}" if offset is None else "is_marlin_format is true"
        what = what if offset is None or given.get("is_marlin_format") else f"pack_dtype is {shown(words)}"
        raise UnsupportedModelError(
            f"{where}: quantization_config.{what}; supported for GPTQ are the formats gptq and gptq_v2 in words of int32: save the "
            "checkpoint as one of them, or give the one that it was quantised from"
        )
    return Gptq(bits, size, offset)
