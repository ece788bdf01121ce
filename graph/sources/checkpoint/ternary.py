"""Weights of BitNet (arXiv:2402.17764), -1, 0 and 1 times a scale, as transformers packs them.

A layer of C inputs and R outputs: `weight` U8 [R / 4, C], four rows in a byte: row i · R / 4 + j is in bits 2i and 2i + 1 of row j, plus
one; `weight_scale` [1], by which the class `autobitlinear` multiplies, and `bitlinear`, the default, divides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from aprgraph.graph.errors import ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.sources.checkpoint.quantized_modules import Decoding, Reals, require_matrix, require_scales
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import elements
from aprgraph.graph.words import shape_text

_IN_A_BYTE = 4
#: Two bits that no element has.
_NONE = 3
#: By the class of the layers, whether the scale is what the weight is divided by.
_DIVIDES = {"bitlinear": True, "autobitlinear": False}


@dataclass(frozen=True)
class Ternary:
    """``divides``: whether the scale is what the weight is divided by, and not multiplied."""

    divides: bool

    kind: ClassVar[str] = "BitNet"
    known_by: ClassVar[str] = "weight"
    dtype: ClassVar[str | None] = "U8"
    parts: ClassVar[Mapping[str, bool]] = {"weight_scale": True}

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """See ``ModuleFormat.weight``."""
        packed, scale = parts["weight"], parts["weight_scale"]
        require_matrix(packed, ("U8",))
        if scale.dims != ():
            require_scales(scale, (1,))
        stored, columns = packed.dims
        octets = packed.view().reshape(packed.dims)

        def factor() -> np.float32:
            number = np.float32(elements(scale).reshape(-1)[0])
            return np.float32(1) / number if self.divides else number

        def codes(start: int, stop: int) -> Reals:
            rows = np.arange(start, stop)
            shifts = (2 * (rows // stored)).astype(np.uint8)[:, None]
            found = octets[rows % stored] >> shifts & np.uint8(_NONE)
            if (found == _NONE).any():
                raise ModelFileError(
                    f"{packed.file.path}: tensor {shown(packed.name)}, {shape_text(packed.dims)}, holds two bits that are {_NONE}, not "
                    "0, 1 or 2, for -1, 0 and 1; the file is damaged, or packed in another way"
                )
            return found.astype(np.float32) - np.float32(1)

        def decode(start: int, stop: int) -> Reals:
            return codes(start, stop) * factor()

        def radius(start: int, stop: int) -> Reals:
            """Half of a scale, as of other integers: what was larger than the scale is a model's that was trained so."""
            return np.full((stop - start, columns), np.float32(0.5) * np.abs(factor()), np.float32)

        return Decoding((_IN_A_BYTE * stored, columns), decode, radius)


def read_bitnet(given: Mapping[str, Any], where: Path) -> tuple[Ternary, tuple[str, ...]]:
    """The format that a `quantization_config` describes, and a notice. Raises UnsupportedModelError."""
    layers, mode = given.get("linear_class", "bitlinear"), given.get("quantization_mode", "offline")
    what = f"{where}: quantization_config"
    if not isinstance(layers, str) or layers not in _DIVIDES:
        raise UnsupportedModelError(f"{what}.linear_class is {shown(layers)}; supported for BitNet are {' and '.join(_DIVIDES)}")
    if mode != "offline":
        raise UnsupportedModelError(
            f"{what}.quantization_mode is {shown(mode)}; supported for BitNet is offline: these are the weights that are trained, which "
            "transformers makes -1, 0 and 1 in each pass; give the checkpoint with packed weights"
        )
    if given.get("use_rms_norm"):
        raise UnsupportedModelError(f"{what}.use_rms_norm is true; supported for BitNet are layers without a norm of their own")
    return Ternary(_DIVIDES[layers]), ("activations are not rounded to 8 bits, as the checkpoint of BitNet asks for",)
