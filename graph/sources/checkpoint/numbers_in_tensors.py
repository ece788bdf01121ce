"""Numbers of the layers that a checkpoint holds as tensors of one element, and GGUF as arrays in the metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping

from aprgraph.graph.errors import ModelError, shown
from aprgraph.graph.families import Family
from aprgraph.graph.metadata import ListValue
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.values import elements, is_plain
from aprgraph.graph.words import shape_text


def take_numbers(family: type[Family], stored: dict[str, StoredTensor]) -> Mapping[str, ListValue]:
    """The arrays by their keys, of tensors that are taken out of ``stored``: ``Family.hf_numbers`` names them.

    Raises ModelError for a tensor of more than one element, and for a layer that lacks what the ones behind it have.
    """
    found: dict[str, dict[int, float]] = {}
    for name in list(stored):
        matched = re.fullmatch(rf"(?:.*\.)?{re.escape(family.hf_layers)}\.(\d+)\.(.+)", name)
        key = family.hf_numbers.get(matched[2]) if matched is not None else None
        if matched is None or key is None:
            continue
        tensor = stored.pop(name)
        if not is_plain(tensor.dtype) or set(tensor.dims) - {1}:
            where = f"{tensor.file.path}: tensor {shown(name)}"
            raise ModelError(f"{where} is {shape_text(tensor.dims)} {tensor.dtype}, expected one number in F32, F16 or BF16")
        found.setdefault(key, {})[int(matched[1])] = float(elements(tensor).reshape(-1)[0])
    for key, numbers in found.items():
        if set(numbers) != set(range(len(numbers))):
            missing = next(layer for layer in range(len(numbers)) if layer not in numbers)
            raise ModelError(f"{key} of layer {missing} is missing; the checkpoint is incomplete")
    return {key: ListValue([numbers[layer] for layer in range(len(numbers))]) for key, numbers in found.items()}
