"""Layers that keep a state of fixed size in place of the keys and values of attention."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from aprgraph.graph.errors import ModelError, shown
from aprgraph.graph.families.numbers import Reading
from aprgraph.graph.metadata import ArrayValue

if TYPE_CHECKING:
    from aprgraph.graph.families.base import Family

_KEY = "attention.recurrent_layers"


class RecurrentLayers(Reading["tuple[bool, ...]"]):
    """Whether each layer is recurrent: as the file lists them, or all but every so manieth, as ``period(family)`` says.

    ``kinds`` are the names of recurrent layers in the `layer_types` of a config.json.
    """

    def __init__(self, period: Callable[[Any], int], kinds: Collection[str]) -> None:
        super().__init__(self._read)
        self.period, self.kinds = period, kinds

    def _read(self, family: Family) -> tuple[bool, ...]:
        metadata, layers, key = family.metadata, family.layers, family.key(_KEY)
        if key in metadata:
            flags = metadata.array(key).values() if isinstance(metadata.get(key), ArrayValue) else metadata.get(key)
            if not isinstance(flags, list) or len(flags) < layers or not all(isinstance(flag, (bool, int)) for flag in flags):
                raise ModelError(
                    f"{metadata.path}: {metadata.own_name(key)} is {shown(flags)}, expected true or false for each of {layers} layers"
                )
            return tuple(bool(flag) for flag in flags[:layers])
        period = self.period(family)
        return tuple((layer + 1) % period != 0 for layer in range(layers))
