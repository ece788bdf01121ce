"""Weights of four-bit floats, E2M1, two in a byte: NVFP4 of NVIDIA's ModelOpt and of compressed-tensors, and its MXFP4.

A layer of C inputs and R outputs: `weight` (ModelOpt) or `weight_packed` (compressed-tensors) U8 [R, C / 2], the first of two inputs in
the lower bits. NVFP4 has `weight_scale` F8_E4M3 [R, C / 16] and one number for the whole layer: `weight_scale_2` F32, which is multiplied
(ModelOpt), or `weight_global_scale` F32, by which the scales are divided (compressed-tensors). MXFP4 has `weight_scale` U8 [R, C / 32],
powers of two (E8M0), and no such number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.sources.checkpoint.quantized_modules import Decoding, Reals, require_matrix
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import elements
from aprgraph.graph.words import shape_text

#: What ModelOpt calls the ways of quantising that are read here; layers may differ in them.
_ALGORITHMS = ("FP8", "NVFP4", "W4A16_NVFP4", "MIXED_PRECISION")
_LEVELS = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
#: Half of the larger gap beside each level.
_HALF_GAPS = np.array([0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 1, 1] * 2, np.float32)
#: By the dtype of the scales: the inputs that share one.
_GROUPS = {"F8_E4M3": 16, "U8": 32}


@dataclass(frozen=True)
class Fp4:
    """``known_by`` is the last part of the packed tensor's name, ``whole`` that of the number of the whole layer, by which scales are
    divided where it ``divides``.
    """

    known_by: str
    whole: str
    divides: bool

    kind: ClassVar[str] = "FP4"
    dtype: ClassVar[str | None] = "U8"

    @property
    def parts(self) -> Mapping[str, bool]:
        """See ``ModuleFormat.parts``."""
        return {"weight_scale": True, self.whole: False}

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """See ``ModuleFormat.weight``."""
        packed, scales, whole = parts[self.known_by], parts["weight_scale"], parts.get(self.whole)
        require_matrix(packed, ("U8",))
        rows, columns = packed.dims[0], 2 * packed.dims[1]
        group = _GROUPS.get(scales.dtype, 16)
        if columns % group:
            raise ModelFileError(
                f"{packed.file.path}: tensor {shown(packed.name)} is {shape_text(packed.dims)}, for {columns} inputs, which no groups of "
                f"{group} fill; the file is damaged"
            )
        require_matrix(scales, tuple(_GROUPS), (rows, columns // group))
        if (whole is not None) != (scales.dtype == "F8_E4M3"):
            expected = f"with {self.whole}, of one number" if whole is None else f"without {self.whole}"
            raise ModelFileError(
                f"{packed.file.path}: tensor {shown(packed.name)} has scales in {scales.dtype}, expected such {expected}; the checkpoint "
                "is incomplete: download it again"
            )
        if whole is not None and (whole.dtype != "F32" or whole.dims not in ((), (1,))):
            require_matrix(whole, ("F32",), (1,))
        layer = _Layer(packed, scales, whole, self.divides, group)
        return Decoding((rows, columns), layer.decode, layer.radius)


@dataclass(frozen=True)
class _Layer:
    packed: StoredTensor
    scales: StoredTensor
    whole: StoredTensor | None
    divides: bool
    group: int

    def decode(self, start: int, stop: int) -> Reals:
        """The weight's rows from ``start`` to ``stop``."""
        return np.asarray(_LEVELS[self._codes(start, stop)] * self._factors(start, stop))

    def radius(self, start: int, stop: int) -> Reals:
        """How far the elements of these rows may have been moved."""
        return np.asarray(_HALF_GAPS[self._codes(start, stop)] * np.abs(self._factors(start, stop)))

    def _codes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        octets = self.packed.view().reshape(self.packed.dims)[start:stop]
        return np.stack([octets & 15, octets >> 4], axis=-1).reshape(stop - start, -1)

    def _factors(self, start: int, stop: int) -> Reals:
        stored = self.scales.view().reshape(self.scales.dims)[start:stop]
        factors = stored.view(ml_dtypes.float8_e8m0fnu if self.whole is None else ml_dtypes.float8_e4m3fn).astype(np.float32)
        if self.whole is not None:
            factors = factors / self._number if self.divides else factors * self._number
        return np.repeat(factors, self.group, axis=1)

    @cached_property
    def _number(self) -> np.float32:
        assert self.whole is not None
        return np.float32(elements(self.whole).reshape(-1)[0])


#: Layers of ModelOpt, and of compressed-tensors.
MODELOPT = Fp4("weight", "weight_scale_2", divides=False)
COMPRESSED = Fp4("weight_packed", "weight_global_scale", divides=True)


def read_modelopt(given: Mapping[str, Any], where: Path) -> tuple[str, ...]:
    """Notices of what a configuration of ModelOpt asks for. Raises UnsupportedModelError for weights that are not read here."""
    algorithm = given.get("quant_algo")
    if algorithm is not None and algorithm not in _ALGORITHMS:
        raise UnsupportedModelError(
            f"{where}: ModelOpt's quant_algo is {shown(algorithm)}; supported are {', '.join(_ALGORITHMS)}; give the checkpoint that it "
            "was quantised from"
        )
    weights_alone = isinstance(algorithm, str) and algorithm.startswith("W4A16")
    rounded: tuple[str, ...] = () if weights_alone else ("activations",)
    if given.get("kv_cache_scheme") or given.get("kv_cache_quant_algo"):
        rounded += ("keys and values of the cache",)
    return tuple(f"{what} are not rounded, as the checkpoint of ModelOpt ({algorithm}) asks for" for what in rounded)
