"""Puts a checkpoint's tensors together as GGUF has them: each under its name there, experts in one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aprgraph.graph.errors import ModelError, ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.families import Family
from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.sources.checkpoint import values
from aprgraph.graph.sources.checkpoint.names import Names, Part, Place
from aprgraph.graph.sources.checkpoint.safetensors import EMPTY, StoredTensor
from aprgraph.graph.sources.checkpoint.values import Value
from aprgraph.graph.words import shape_text

_GATE, _UP = "moe_expert_gate", "moe_expert_up"
_FP8 = ("F8_E4M3", "F8_E5M2")
_MXFP4_DIMS = 4
_KINDS: tuple[Literal["weight", "bias"], ...] = ("weight", "bias")


@dataclass
class Gathered:
    """``values`` by GGUF's name, with the names that the files have for them, and the file that each begins in."""

    values: dict[str, Value] = field(default_factory=dict)
    own_names: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


@dataclass
class _Group:
    """The tensors of a slot: of each part those of the experts by number, or one (None)."""

    fused: bool
    parts: dict[Part, dict[int | None, StoredTensor]] = field(default_factory=dict)

    def one(self, part: Part) -> StoredTensor | None:
        return self.parts.get(part, {}).get(None)


def gather(
    family: type[Family],
    stored: Mapping[str, StoredTensor],
    block: tuple[int, int],
    config: Path,
    fields: Mapping[str, Any] | None = None,
) -> Gathered:
    """All tensors; those that have no place in the family keep their names.

    ``block``: rows and columns that share a scale of FP8. ``fields`` are those of the text model in config.json. Raises
    ModelError, ModelFileError or UnsupportedModelError.
    """
    return _Gathering(family, stored, block, config, fields or {}).run()


class _Gathering:
    def __init__(
        self,
        family: type[Family],
        stored: Mapping[str, StoredTensor],
        block: tuple[int, int],
        config: Path,
        fields: Mapping[str, Any],
    ) -> None:
        self._fields = fields
        self._family, self._stored, self._block, self._config = family, stored, block, config
        self._names = Names(family, stored)
        self._found = Gathered()

    def run(self) -> Gathered:
        groups: dict[tuple[str, int | None], _Group] = {}
        for name, tensor in self._stored.items():
            place = self._names.place(name)
            if place is None:
                self._put(name, values.as_stored(tensor), tensor)
            else:
                self._sort_in(groups, place, tensor)
        for (slot, layer), group in groups.items():
            (self._fused if group.fused else self._plain)(slot, layer, group)
        return self._found

    def _sort_in(self, groups: dict[tuple[str, int | None], _Group], place: Place, tensor: StoredTensor) -> None:
        where = f"{tensor.file.path}: tensor {shown(tensor.name)}"
        if 0 in tensor.dims:
            raise ModelFileError(f"{where} is {shape_text(tensor.dims)}, expected sizes of at least 1; {EMPTY}")
        group = groups.setdefault((place.slot, place.layer), _Group(place.fused))
        of_part = group.parts.setdefault(place.part, {})
        if group.fused != place.fused or place.expert in of_part or (of_part and (None in of_part or place.expert is None)):
            other = next(iter(of_part.values())).name if of_part else "another tensor"
            raise ModelError(f"{where} and {shown(other)} are both {place.slot} of layer {place.layer}; expected one of them")
        of_part[place.expert] = tensor

    def _put(self, name: str, value: Value, first: StoredTensor) -> None:
        if name in self._found.values:
            raise ModelError(f"{first.file.path}: tensor {shown(first.name)} is {name} in GGUF's names, and so is "
                             f"{shown(self._found.own_names[name])}; expected one of them")  # fmt: skip
        self._found.values[name], self._found.own_names[name], self._found.files[name] = value, first.name, first.file.path

    # -- one tensor, or one an expert ---------------------------------------------------------------------------------

    def _plain(self, slot: str, layer: int | None, group: _Group) -> None:
        for kind in _KINDS:
            of_part = group.parts.get(kind)
            if not of_part:
                continue
            made = [self._value(slot, kind, tensor, self._scale(group, expert), expert) for expert, tensor in _by_number(of_part)]
            first = next(tensor for _, tensor in _by_number(of_part))
            whole = made[0] if None in of_part else self._stacked(made, of_part, slot, layer)
            for own_slot, conversion in self._family.conversions(slot, self._fields, kind).items():
                self._put(self._names.gguf_name(own_slot, layer, kind), _converted(whole, conversion, first), first)
        for part, of_part in group.parts.items():
            if part not in _KINDS and "weight" not in group.parts:
                alone = next(iter(of_part.values()))
                raise ModelError(f"{alone.file.path}: tensor {shown(alone.name)} is there, but not the weight that it belongs to")

    def _scale(self, group: _Group, expert: int | None) -> StoredTensor | None:
        return group.parts.get("scale_inv", {}).get(expert) or group.parts.get("scale", {}).get(expert)

    def _value(self, slot: str, part: Part, tensor: StoredTensor, scale: StoredTensor | None, expert: int | None) -> Value:
        where = f"{tensor.file.path}: tensor {shown(tensor.name)}"
        if tensor.dtype in _FP8 and part == "weight":
            if scale is None or values.shared_by(tensor, scale, self._block) is None:
                expected = "one for the tensor, for each row, or for each block of " + shape_text(self._block)
                found = "no scale" if scale is None else f"a scale of {shape_text(scale.dims)} {scale.dtype}"
                raise UnsupportedModelError(f"{where} is {shape_text(tensor.dims)} {tensor.dtype} with {found}; expected {expected}")
            return values.scaled_fp8(tensor, scale, self._block)
        if not values.is_plain(tensor.dtype):
            raise UnsupportedModelError(f"{where} is {tensor.dtype}; supported are F32, F16, BF16, and FP8 and MXFP4 with their scales")
        if scale is not None and part == "weight":
            raise UnsupportedModelError(f"{where} is {tensor.dtype} and has the scale {shown(scale.name)}; expected one of FP8 alone")
        if (
            part == "weight" and expert is None and self._family.is_transposed(slot, tensor.dims, self._fields)
        ):  # experts by themselves are as others are
            self._require(tensor, "", 2, 1)
            return values.transposed(tensor)
        return values.as_vector(tensor) if part == "bias" else values.as_stored(tensor)

    def _stacked(self, made: list[Value], of_part: Mapping[int | None, StoredTensor], slot: str, layer: int | None) -> Value:
        """The experts in one. Raises ModelError for those that are missing or unlike the others."""
        numbers = sorted(number for number in of_part if number is not None)
        first = of_part[numbers[0]]
        missing = next((number for number, there in enumerate(numbers) if number != there), None)
        if missing is not None:
            raise ModelError(f"{first.file.path}: {slot} of expert {missing} in layer {layer} is missing; the checkpoint is incomplete")
        odd = next(
            (one for one, value in zip(numbers, made, strict=True) if (value.dims, value.format) != (made[0].dims, made[0].format)), None
        )
        if odd is not None:
            tensor = of_part[odd]
            raise ModelError(
                f"{tensor.file.path}: tensor {shown(tensor.name)} is {shape_text(tensor.dims)} {tensor.dtype}, expected what "
                f"{shown(first.name)} is, {shape_text(first.dims)} {first.dtype}"
            )
        return values.stacked(made)

    # -- all experts in one -------------------------------------------------------------------------------------------

    def _fused(self, slot: str, layer: int | None, group: _Group) -> None:
        both = ((0, _GATE), (1, _UP)) if slot == _GATE else ((None, slot),)
        order = self._family.hf_gate_up
        blocks, scales = group.one("blocks"), group.one("scales")
        if (blocks is None) != (scales is None):
            alone = blocks or scales
            assert alone is not None
            raise ModelError(f"{alone.file.path}: tensor {shown(alone.name)} is there alone; expected _blocks and _scales")
        for which, own_slot in both:
            name = self._names.gguf_name(own_slot, layer, "weight")
            if blocks is not None and scales is not None:
                self._require(blocks, "U8", _MXFP4_DIMS, 2 if which is not None else 1)
                if blocks.dims[-1] != 16 or scales.dims != blocks.dims[:3] or scales.dtype not in ("U8", "F8_E8M0"):
                    raise ModelError(f"{blocks.file.path}: tensor {shown(blocks.name)} is {shape_text(blocks.dims)} and its scales are "
                                     f"{shape_text(scales.dims)}; expected blocks of 16 bytes and one scale each")  # fmt: skip
                self._put(name, values.mxfp4(blocks, scales, which), blocks)
            for part in _KINDS:
                tensor = group.one(part)
                if tensor is None:
                    continue
                self._require(tensor, "", 3 if part == "weight" else 2, 1)
                name = self._names.gguf_name(own_slot, layer, part)
                is_transposed = self._family.is_transposed(slot, tensor.dims, self._fields)
                if which is not None:
                    self._put(name, values.half_of(tensor, which, order, is_transposed=is_transposed), tensor)
                elif part == "weight" and is_transposed:
                    self._put(name, values.transposed(tensor), tensor)
                else:
                    self._put(name, values.as_stored(tensor), tensor)

    def _require(self, tensor: StoredTensor, dtype: str, rank: int, even: int) -> None:
        """Raise ModelError for a tensor of another rank, dtype, or with rows that do not come in pairs."""
        is_right = tensor.dtype == dtype if dtype else values.is_plain(tensor.dtype)
        if not is_right or len(tensor.dims) != rank or tensor.dims[1] % even:
            raise UnsupportedModelError(
                f"{tensor.file.path}: tensor {shown(tensor.name)} is {shape_text(tensor.dims)} {tensor.dtype}, expected {rank} dimensions "
                f"of {dtype or 'F32, F16 or BF16'}"
            )


def _converted(value: Value, conversion: Conversion, first: StoredTensor) -> Value:
    """What GGUF has of a tensor. Raises ModelError for one without the rows or columns that the model's numbers ask for."""
    try:
        return values.converted(value, conversion)
    except IndexError as error:
        raise ModelError(f"{first.file.path}: tensor {shown(first.name)} {error}, as the numbers of the model say") from None


def _by_number(of_part: Mapping[int | None, StoredTensor]) -> Iterator[tuple[int | None, StoredTensor]]:
    """The tensors of a slot in the order of experts."""
    return iter(sorted(of_part.items(), key=lambda item: -1 if item[0] is None else item[0]))
