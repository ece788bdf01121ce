"""What a model of transformers computes, as its family says: the graph, and the module that holds each weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aprgraph.graph.errors import AprgraphError, UnsupportedModelError
from aprgraph.graph.families import Family
from aprgraph.graph.families.numbers import Number, value_of_fields
from aprgraph.graph.families.recurrent import RecurrentLayers
from aprgraph.graph.families.weight_names import GGUF_NAMES, HF_NAMES
from aprgraph.graph.families.window import Windows
from aprgraph.graph.metadata import ListValue
from aprgraph.graph.outline import SMALL_NUMBERS, Outline, outline
from aprgraph.graph.sources.checkpoint.config_class import MLP_KINDS, leading_dense
from aprgraph.graph.sources.checkpoint.config_defaults import CLASS_KEYS


class Modules:
    """The modules of a model that hold its weights. ``head`` is the layer that gives the logits, None without one."""

    def __init__(self, family: type[Family], decoder: Any, head: Any | None) -> None:
        self._family, self._decoder, self._head = family, decoder, head

    def find(self, slot: str, layer: int | None) -> Any | None:
        """The module that holds the weight of ``slot``; None where there is none."""
        if slot == "lm_head":
            return self._head
        path = self._family.hf_name(slot)
        return None if path is None else self._at(path, layer)

    def around(self, slot: str, layer: int | None) -> Any | None:
        """The module that the one of ``slot`` is a part of."""
        path = self._family.hf_name(slot)
        return None if path is None or "." not in path else self._at(path.rpartition(".")[0], layer)

    def holder(self, slot: str, layer: int | None) -> tuple[Any, str] | None:
        """The module that has the tensor of ``slot`` as an attribute, and its name there; None of a weight of a module's own."""
        path = self._family.hf_name(slot)
        inside, _, name = (path or "").rpartition(".")
        module = None if path is None else self._at(inside, layer)
        if module is None or name not in dict((*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))):
            return None
        return module, name

    def has(self, tensor: str) -> bool:
        """Whether the model has a tensor, which is named as in GGUF: a weight or a bias of a module."""
        name, _, what = tensor.rpartition(".")
        layer, name = (int(name.split(".")[1]), name.split(".", 2)[2]) if name.startswith("blk.") else (None, name)
        slots = list(self._slots(name))
        if what != "scale" and any(self.holder(slot, layer) is not None for slot in slots):
            return True
        modules = [module for slot in slots if (module := self.find(slot, layer)) is not None and not _stands_for_none(module)]
        return any(has_bias(module) for module in modules) if what == "bias" else what == "weight" and bool(modules)

    def _slots(self, name: str) -> Iterator[str]:
        """What the family calls ``name`` in GGUF."""
        slots = dict.fromkeys((*GGUF_NAMES, *HF_NAMES, *self._family.gguf_names, *self._family.hf_names))
        yield from (slot for slot in slots if self._family.gguf_name(slot) == name)

    def _at(self, path: str, layer: int | None) -> Any | None:
        root = self._decoder if layer is None else self._decoder.get_submodule(self._family.hf_layers)[layer]
        try:
            return root.get_submodule(path)
        except AttributeError:
            return None


def _stands_for_none(module: Any) -> bool:
    """Whether a module gives what it is given, as classes have in the place of a norm that a model lacks."""
    return type(module).__name__ == "Identity"


def has_bias(module: Any) -> bool:
    """Whether a module adds a bias to what it multiplies."""
    bias = getattr(module, "bias", None)
    return (bias() if callable(bias) else bias) is not None  # a method in quantised layers of torch


def outline_of(family: type[Family], decoder: Any, modules: Modules) -> Outline:
    """The graph of a model of the numbers of its configuration. Raises UnsupportedModelError where the family cannot be such.

    The graph tells what is computed from what. Numbers that the configuration has no key for change nothing of that.
    """
    config = decoder.config
    fields = family.made_fields(config.to_dict())
    declared = [reading for reading in family.readings().values() if isinstance(reading, Number)]
    numbers: dict[str, object] = {number.gguf: SMALL_NUMBERS.get(number.gguf, 1) for number in declared if number.is_required}

    def given(name: str) -> Any:
        return fields[name] if name in fields else getattr(config, name, None)

    for number in declared:
        value = None if number.hf is None else value_of_fields(number.hf, given)
        if value is not None:
            numbers[number.gguf] = ListValue(value) if isinstance(value, list) else value
    if (dense := leading_dense(getattr(config, MLP_KINDS, None))) is not None:
        numbers["leading_dense_block_count"] = dense
    if isinstance(family.readings()["windows"], Windows) and (kinds := fields.get("layer_types")) and (window := given("sliding_window")):
        slides: list[int | float | bool] = [kind == "sliding_attention" for kind in kinds]
        numbers |= {"attention.sliding_window": window, "attention.sliding_window_pattern": ListValue(slides)}
    for reading in family.readings().values():
        if isinstance(reading, RecurrentLayers) and (kinds := fields.get("layer_types")):
            flags: list[int | float | bool] = [kind in reading.kinds for kind in kinds]
            numbers["attention.recurrent_layers"] = ListValue(flags)
    numbers |= CLASS_KEYS.get(getattr(config, "model_type", ""), {})
    numbers |= {"block_count": len(decoder.get_submodule(family.hf_layers)), "nextn_predict_layers": 0}
    try:
        return outline(family, numbers, vocabulary=config.vocab_size, optional=modules.has)
    except AprgraphError as error:
        raise UnsupportedModelError(f"{type(config).__name__} makes no model of the family {family.architecture}: {error}") from error
