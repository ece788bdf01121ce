"""Layers that keep a state of fixed size in place of the keys and values of attention."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from aprgraph.graph.errors import ModelError, shown
from aprgraph.graph.families.numbers import Reading
from aprgraph.graph.metadata import ArrayValue

if TYPE_CHECKING:
    from aprgraph.graph.families.base import Family


class RecurrentLayers(Reading["tuple[bool, ...]"]):
    """Whether each layer is recurrent: as the file lists them, or all but every so manieth, as ``period(family)`` says.

    Without ``period``, where the file does not list them, those without KV heads are. ``kinds`` are the names of recurrent layers in the
    `layer_types` of a config.json.
    """

    #: Of the list, without the architecture.
    key: ClassVar[str] = "attention.recurrent_layers"

    def __init__(self, period: Callable[[Any], int] | None, kinds: Collection[str]) -> None:
        super().__init__(self._read)
        self.period, self.kinds = period, kinds

    def _read(self, family: Family) -> tuple[bool, ...]:
        metadata, layers, key = family.metadata, family.layers, family.key(self.key)
        if key in metadata:
            flags = metadata.array(key).values() if isinstance(metadata.get(key), ArrayValue) else metadata.get(key)
            if not isinstance(flags, list) or len(flags) < layers or not all(isinstance(flag, (bool, int)) for flag in flags):
                raise ModelError(
                    f"{metadata.path}: {metadata.own_name(key)} is {shown(flags)}, expected true or false for each of {layers} layers"
                )
            return tuple(bool(flag) for flag in flags[:layers])
        if self.period is None:
            return tuple(count == 0 for count in family.kv_heads)  # type: ignore[attr-defined]  # of a decoder
        period = self.period(family)
        return tuple((layer + 1) % period != 0 for layer in range(layers))


def without_kv_heads(fields: Mapping[str, Any], kinds: Collection[str]) -> Mapping[str, Any]:
    """The fields of a config.json, whose layers of these ``kinds`` have no KV heads: GGUF tells them so."""
    count, layers = fields.get("num_key_value_heads"), fields.get("layer_types")
    if not isinstance(count, int) or not isinstance(layers, list):
        return fields
    return {**fields, "num_key_value_heads": [0 if kind in kinds else count for kind in layers]}
