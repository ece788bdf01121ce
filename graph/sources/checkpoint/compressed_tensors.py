"""Weights of compressed-tensors (llm-compressor), as its formats pack-quantized and int-quantized store them.

A layer of C inputs and R outputs, packed: `weight_packed` I32 [R, C · bits / 32], integers of 2, 4 or 8 bits along the
inputs, 2^(bits − 1) added; `weight_scale` [R, G], one group of all inputs in the strategy channel, or one number;
`weight_zero_point` I32 [R · bits / 32, G], packed along the outputs; `weight_shape` [R, C]; of older versions
`weight_g_idx` I32 [C], the group of each input. Otherwise `weight` I8 [R, C] and its scales. The weight is
(q − z) · scale. Weights of float-quantized are FP8, which is read like that of other checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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

_BITS = (2, 4, 8)
_FORMATS = (
    "dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
)  # fmt: skip
#: Of targets that are another layer's.
_NO_TARGET = 3
#: How a target that is a regular expression begins.
_BY_PATTERN = "re:"
_ORIGINAL = "give the checkpoint that it was quantised from"


@dataclass(frozen=True)
class Asymmetric:
    """Which layers have zero points, by the ``groups`` of config.json: their targets, and whether they are asymmetric.

    A target is a layer's name, a regular expression of it, or the class Linear, which is that of all layers. The first is
    preferred to the second, and this to the third.
    """

    groups: tuple[tuple[tuple[str | re.Pattern[str], ...], bool], ...] = ()

    def holds(self, module: str) -> bool:
        """Whether the layer named ``module`` has zero points."""
        ranked = [(self._rank(target, module), is_asymmetric) for targets, is_asymmetric in self.groups for target in targets]
        rank, is_asymmetric = min(ranked, key=lambda found: found[0], default=(_NO_TARGET, False))
        return rank < _NO_TARGET and is_asymmetric

    @staticmethod
    def _rank(target: str | re.Pattern[str], module: str) -> int:
        if isinstance(target, str):
            return 0 if target == module else 2 if target == "Linear" else _NO_TARGET
        return 1 if target.match(module) else _NO_TARGET

    def require(self, zeros: StoredTensor | None, first: StoredTensor) -> None:
        """Raise ModelError if the layer of the tensor ``first`` lacks its zero points: 0 is not what stands for 0 in it."""
        if zeros is None and self.holds(first.name.rpartition(".")[0]):
            raise ModelError(
                f"{first.file.path}: tensor {shown(first.name)} is there, and weight_zero_point of the same layer is not, though "
                "config.json says symmetric false of it; the checkpoint is incomplete: download it again"
            )


_ALL_SYMMETRIC = Asymmetric()


@dataclass(frozen=True)
class PackQuantized:
    """Layers of packed integers; of how many bits each has, its shapes tell."""

    asymmetric: Asymmetric = _ALL_SYMMETRIC

    kind: ClassVar[str] = "compressed-tensors"
    known_by: ClassVar[str] = "weight_packed"
    dtype: ClassVar[str | None] = None
    parts: ClassVar[Mapping[str, bool]] = {
        "weight_scale": True, "weight_shape": True, "weight_zero_point": False, "weight_g_idx": False,
    }  # fmt: skip

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """See ``ModuleFormat.weight``."""
        packed, zeros = parts["weight_packed"], parts.get("weight_zero_point")
        require_matrix(packed, ("I32",))
        self.asymmetric.require(zeros, packed)
        rows, words = packed.dims
        columns = _columns(parts["weight_shape"], rows)
        bits = next((bits for bits in _BITS if columns * bits == words * 32), None)
        if bits is None:
            raise ModelFileError(
                f"{packed.file.path}: tensor {shown(packed.name)} is {shape_text(packed.dims)}, for {columns} inputs; expected integers of "
                "2, 4 or 8 bits that fill words of 32 bits"
            )
        scaling = _Scaling(parts["weight_scale"], parts.get("weight_g_idx"), rows, columns)
        if zeros is not None:
            require_matrix(zeros, ("I32",), (-(-rows * bits // 32), scaling.groups))
        shifts = np.arange(0, 32, bits, dtype=np.uint32)

        def codes(start: int, stop: int) -> npt.NDArray[np.number]:
            fields = words_of(packed)[start:stop, :, None] >> shifts & np.uint32((1 << bits) - 1)
            return fields.reshape(stop - start, columns).astype(np.uint8)

        def zero_points(start: int, stop: int) -> npt.NDArray[np.number]:
            if zeros is None:
                return np.full((stop - start, scaling.groups), 1 << (bits - 1), np.uint8)
            return unpack_words(words_of(zeros), bits)[start:stop]

        return Affine(rows, columns, bits, codes, scaling.factors, zero_points, scaling.group_of_each).decoding((rows, columns))


@dataclass(frozen=True)
class IntQuantized:
    """Layers of integers of 8 bits."""

    asymmetric: Asymmetric = _ALL_SYMMETRIC

    kind: ClassVar[str] = "compressed-tensors"
    known_by: ClassVar[str] = "weight"
    dtype: ClassVar[str | None] = "I8"
    parts: ClassVar[Mapping[str, bool]] = {"weight_scale": True, "weight_zero_point": False, "weight_g_idx": False}

    def weight(self, parts: Mapping[str, StoredTensor]) -> Decoding:
        """See ``ModuleFormat.weight``."""
        stored, zeros = parts["weight"], parts.get("weight_zero_point")
        require_matrix(stored, ("I8",))
        self.asymmetric.require(zeros, stored)
        rows, columns = stored.dims
        scaling = _Scaling(parts["weight_scale"], parts.get("weight_g_idx"), rows, columns)
        if zeros is not None:
            require_matrix(zeros, ("I8",), parts["weight_scale"].dims)

        def codes(start: int, stop: int) -> npt.NDArray[np.number]:
            return _integers(stored).reshape(stored.dims)[start:stop]

        def zero_points(start: int, stop: int) -> npt.NDArray[np.number]:
            assert zeros is not None
            return np.broadcast_to(_integers(zeros).reshape(-1, scaling.groups), (rows, scaling.groups))[start:stop]

        offsets = None if zeros is None else zero_points
        layer = Affine(rows, columns, 8, codes, scaling.factors, offsets, scaling.group_of_each, packed=False)
        return layer.decoding((rows, columns))


class _Scaling:
    """The scales of a layer, and which of its ``groups`` each input is in. Raises ModelFileError for shapes that do not fit."""

    def __init__(self, scales: StoredTensor, order: StoredTensor | None, rows: int, columns: int) -> None:
        self._scales, self._order, self._rows, self._columns = scales, order, rows, columns
        self.groups = scales.dims[-1] if len(scales.dims) == 2 else 1
        is_whole = scales.dims in ((), (1,))
        require_scales(scales, scales.dims if is_whole else (rows, self.groups))
        if order is not None:
            require_matrix(order, ("I32",), (columns,))
        if columns % self.groups:
            raise ModelFileError(
                f"{scales.file.path}: tensor {shown(scales.name)} is {shape_text(scales.dims)}, and {columns} inputs do not divide among "
                f"{self.groups} groups; the file is damaged"
            )

    def group_of_each(self) -> npt.NDArray[np.integer]:
        """The group of each input. Raises ModelFileError for one that is not there."""
        # Older versions wrote -1 for layers in which inputs are in order.
        if self._order is not None and (self._order.view().view(np.int32) != -1).any():
            return groups_of(self._order, self.groups)
        return np.arange(self._columns) // (self._columns // self.groups)

    def factors(self, start: int, stop: int) -> npt.NDArray[np.number]:
        """The scales of the rows from ``start`` to ``stop``, [rows, groups]."""
        return np.broadcast_to(elements(self._scales).reshape(-1, self.groups), (self._rows, self.groups))[start:stop].astype(np.float32)


def _integers(tensor: StoredTensor) -> npt.NDArray[np.int8]:
    return tensor.view().view(np.int8)


def _columns(shape: StoredTensor, rows: int) -> int:
    """The number of inputs that `weight_shape` says. Raises ModelFileError."""
    kinds = {"I64": np.int64, "I32": np.int32}
    if shape.dims != (2,) or shape.dtype not in kinds:
        require_matrix(shape, tuple(kinds), (2,))
    own_rows, columns = shape.view().view(kinds[shape.dtype]).tolist()
    if own_rows != rows or not 0 < columns < 1 << 31:
        raise ModelFileError(
            f"{shape.file.path}: tensor {shown(shape.name)} says {own_rows} x {columns}, expected {rows} rows; the file is damaged"
        )
    return int(columns)


def read_compressed_tensors(given: Mapping[str, Any], where: Path) -> tuple[tuple[int, int] | None, tuple[str, ...], Asymmetric]:
    """The block of FP8 weights that share a scale, if it is said, notices, and which layers have zero points.

    Raises ModelError or UnsupportedModelError.
    """
    groups = given.get("config_groups") or {}
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise ModelError(f"{where}: quantization_config.config_groups is {shown(groups)}, expected an object of objects; correct it")
    sparsity = given.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") not in (None, "dense"):
        raise UnsupportedModelError(f"{where}: sparsity_config.format is {shown(sparsity['format'])}; supported is dense: {_ORIGINAL}")
    if given.get("transform_config"):
        raise UnsupportedModelError(
            f"{where}: transform_config is there, whose rotations of activations nothing here applies, so that the numbers would be wrong; "
            f"{_ORIGINAL}"
        )
    for name in (given.get("format", "dense"), *(group.get("format") for group in groups.values())):
        if name is not None and name not in _FORMATS:
            supported = ", ".join(_FORMATS)
            raise UnsupportedModelError(
                f"{where}: the format of compressed-tensors is {shown(name)}; supported are {supported}; {_ORIGINAL}"
            )
    block = next((weights["block_structure"] for weights in _of(groups, "weights") if weights.get("block_structure")), None)
    if block is not None and not (isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)):
        raise ModelError(f"{where}: block_structure is {shown(block)}, expected two sizes; correct it")
    notices: tuple[str, ...] = ()
    if any(True for _ in _of(groups, "input_activations")):
        notices += (f"activations are not rounded to 8 bits, as {where.name} asks for (input_activations)",)
    if given.get("kv_cache_scheme"):
        notices += (f"keys and values are not rounded to 8 bits, as {where.name} asks for (kv_cache_scheme)",)
    return None if block is None else (block[0], block[1]), notices, _read_asymmetric(groups, where)


def _read_asymmetric(groups: Mapping[str, Mapping[str, Any]], where: Path) -> Asymmetric:
    found = []
    for group in groups.values():
        targets, weights = group.get("targets") or [], group.get("weights")
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise ModelError(f"{where}: targets of quantization_config is {shown(targets)}, expected names of layers; correct it")
        found.append((tuple(_target(one, where) for one in targets), isinstance(weights, dict) and weights.get("symmetric") is False))
    return Asymmetric(tuple(found))


def _target(text: str, where: Path) -> str | re.Pattern[str]:
    if not text.startswith(_BY_PATTERN):
        return text
    try:
        return re.compile(text.removeprefix(_BY_PATTERN))
    except re.error as error:
        raise ModelError(f"{where}: target {shown(text)} of quantization_config is no regular expression ({error}); correct it") from None


def _of(groups: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[Mapping[str, Any]]:
    """What groups say of ``name``, where they do."""
    return (group[name] for group in groups.values() if isinstance(group.get(name), dict))
