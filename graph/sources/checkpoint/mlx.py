"""Weights of MLX's quantisation, as mlx-lm's converter stores them.

A layer of C inputs and R outputs, or of X experts: `weight` U32 [X, R, C · bits / 32], integers of 2, 3, 4, 5, 6 or 8 bits along the
inputs, the lowest bits first, across the words' ends where they do not divide 32; `scales` and `biases` [X, R, C / group_size]. The
weight is q · scale + bias (mode `affine`). In the modes `mxfp4` and `mxfp8` the integers are E2M1 and E4M3, and scales U8 powers of two
(E8M0), in `nvfp4` E2M1 with scales in E4M3, without biases (https://ml-explore.github.io/mlx, mlx.core.quantize).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.sources.checkpoint.affine import Affine
from aprgraph.graph.sources.checkpoint.quantized_modules import Decoding, Reals, unpack_words
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import elements
from aprgraph.graph.words import joined, shape_text

#: The field of config.json. mlx-lm repeats it as `quantization_config`, without a `quant_method`.
FIELD = "quantization"
_AFFINE = "affine"
_BITS = (2, 3, 4, 5, 6, 8)
#: Of each mode, the bits and the inputs that share a scale, where nothing says otherwise.
_USUAL = {_AFFINE: (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
_REAL = ("F16", "BF16", "F32")
#: By their bits: what the integers of the modes without biases stand for.
_LEVELS: Mapping[int, npt.NDArray[np.float32]] = {
    4: np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32),
    8: np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32),
}


@dataclass(frozen=True)
class Mlx:
    """``mode``, ``bits`` and ``group_size`` of layers of which ``others``, by the module's name, say nothing else."""

    mode: str
    bits: int
    group_size: int
    others: Mapping[str, tuple[str, int, int]]

    kind: ClassVar[str] = "MLX"
    known_by: ClassVar[str] = "weight"
    dtype: ClassVar[str | None] = "U32"
    parts: ClassVar[Mapping[str, bool]] = {"scales": True, "biases": False}

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """See ``ModuleFormat.weight``."""
        packed, scales, biases = parts["weight"], parts["scales"], parts.get("biases")
        mode, bits, size = self.others.get(packed.name.removesuffix(".weight"), (self.mode, self.bits, self.group_size))
        columns = packed.dims[-1] * 32 // bits
        grouped = (*packed.dims[:-1], columns // size)
        is_affine = mode == _AFFINE
        wanted = _REAL if is_affine else ("U8",)
        fits = len(packed.dims) in (2, 3) and columns % size == 0 and packed.dims[-1] * 32 == columns * bits
        if not fits or scales.dims != grouped or scales.dtype not in wanted:
            raise ModelFileError(
                f"{packed.file.path}: tensor {shown(packed.name)} is {shape_text(packed.dims)} and its scales {shape_text(scales.dims)} "
                f"{scales.dtype}; expected those of {bits} bits in groups of {size} inputs, {joined(wanted, 'or')}, as config.json says"
            )
        if (biases is not None) != is_affine or (biases is not None and (biases.dims != grouped or biases.dtype not in _REAL)):
            found = "no biases" if biases is None else f"biases of {shape_text(biases.dims)} {biases.dtype}"
            expected = f"{shape_text(grouped)}" if is_affine else "none"
            raise ModelFileError(
                f"{packed.file.path}: tensor {shown(packed.name)} has {found}, expected {expected} in the mode {mode}; the file is "
                "damaged, or config.json describes another quantisation"
            )
        return _Layer(packed, scales, biases, mode, bits, size, math.prod(packed.dims[:-1]), columns).decoding()


@dataclass(frozen=True)
class _Layer:
    packed: StoredTensor
    scales: StoredTensor
    biases: StoredTensor | None
    mode: str
    bits: int
    size: int
    rows: int
    columns: int

    def decoding(self) -> Decoding:
        """The weight."""
        dims = (*self.packed.dims[:-1], self.columns)
        if self.biases is None:
            return Decoding(dims, self._decode, self._radius)
        groups = np.arange(self.columns) // self.size
        layer = Affine(self.rows, self.columns, self.bits, self._codes, self._factors, None, lambda: groups, self._own_biases)
        return layer.decoding(dims)

    def _decode(self, start: int, stop: int) -> Reals:
        """The weight's rows from ``start`` to ``stop``, those of all experts one after the other."""
        values = _LEVELS[self.bits][self._codes(start, stop)]
        groups = values.reshape(stop - start, -1, self.size)
        groups *= self._factors(start, stop)[:, :, None]
        return values.reshape(stop - start, self.columns)

    def _radius(self, start: int, stop: int) -> Reals:
        """How far the elements of these rows may have been moved: by half of the gap beside each."""
        factors = np.repeat(np.abs(self._factors(start, stop)), self.size, axis=1)
        return np.asarray(factors * _half_gaps(self.bits)[self._codes(start, stop)])

    def _codes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        words = self.packed.view().view(np.uint32).reshape(self.rows, -1)[start:stop]
        return unpack_words(np.ascontiguousarray(words.T), self.bits).T

    def _factors(self, start: int, stop: int) -> Reals:
        stored = self.scales.view().reshape(self.scales.dims) if self.scales.dtype == "U8" else elements(self.scales)
        if self.mode == _AFFINE:
            return self._rows(stored, start, stop)
        kind = ml_dtypes.float8_e4m3fn if self.mode == "nvfp4" else ml_dtypes.float8_e8m0fnu
        return self._rows(stored.view(kind), start, stop)

    def _own_biases(self, start: int, stop: int) -> Reals:
        assert self.biases is not None
        return self._rows(elements(self.biases), start, stop)

    def _rows(self, values: npt.NDArray[Any], start: int, stop: int) -> Reals:
        return values.reshape(self.rows, -1)[start:stop].astype(np.float32)


@cache
def _half_gaps(bits: int) -> npt.NDArray[np.float32]:
    """Of each code of a mode without biases, half of the larger gap between its level and those beside it; 0 of NaN."""
    levels = _LEVELS[bits]
    known = np.unique(levels[np.isfinite(levels)])
    steps = np.diff(known)
    larger = np.maximum(np.append(steps, 0), np.insert(steps, 0, 0)) / 2
    return np.where(np.isfinite(levels), larger[np.searchsorted(known, np.where(np.isfinite(levels), levels, 0))], 0).astype(np.float32)


def read_mlx(given: Mapping[str, Any], where: Path) -> Mlx:
    """The format that `quantization` describes. Raises ModelError or UnsupportedModelError."""
    mode, bits, size = _numbers(given, FIELD, where, _AFFINE)
    others = {}
    for name, value in given.items():
        if isinstance(value, dict):
            others[name] = _numbers(value, f"{FIELD}.{name}", where, mode)
    return Mlx(mode, bits, size, others)


def _numbers(given: Mapping[str, Any], name: str, where: Path, usual: str) -> tuple[str, int, int]:
    mode = given.get("mode", usual)
    if mode not in _USUAL:
        raise UnsupportedModelError(f"{where}: {name}.mode is {shown(mode)}; supported for MLX are {joined(list(_USUAL), 'and')}")
    usual_bits, usual_size = _USUAL[mode]
    bits, size = given.get("bits", usual_bits), given.get("group_size", usual_size)
    if type(bits) is not int or bits not in (_BITS if mode == _AFFINE else (usual_bits,)):
        supported = joined([str(one) for one in _BITS], "and") if mode == _AFFINE else str(usual_bits)
        raise UnsupportedModelError(f"{where}: {name}.bits is {shown(bits)}; supported for MLX's mode {mode} are {supported}")
    if type(size) is not int or size < 1 or size % 16:
        raise ModelError(f"{where}: {name}.group_size is {shown(size)}, expected how many inputs share a scale, such as 64; correct it")
    return mode, bits, size
