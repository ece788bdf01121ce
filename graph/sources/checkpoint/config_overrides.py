"""Fields of a config.json that a caller gives other values."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from aprgraph.graph.arguments import OVERRIDES
from aprgraph.graph.errors import ModelError, shown


def with_fields(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``config`` with some fields replaced. Raises ModelError for one that holds no single value."""
    found = copy.deepcopy(dict(config))
    for name, value in fields.items():
        _replace(found, where_it_lies(found, name), value)
    return found


def where_it_lies(config: Mapping[str, Any], name: str) -> str:
    """The field ``name`` with the object that it lies in: `rope_theta` stands where transformers 5 moved it to."""
    moved = config.get("rope_parameters")
    return f"rope_parameters.{name}" if name not in config and isinstance(moved, dict) and name in moved else name


def _replace(config: dict[str, Any], name: str, value: Any) -> None:
    """Set a field, given with the objects that it lies in before it: ``rope_parameters.rope_theta``."""
    *outer, last = name.split(".")
    for part in outer:
        inner = config.get(part)
        if not isinstance(inner, dict):
            raise ModelError(OVERRIDES.given(name, f"{{{name!r}: …}}"), f": {part} is {shown(inner)} in the file, and has no field {last}")
        config = inner
    if isinstance(config.get(last), (list, dict)):
        raise ModelError(OVERRIDES.given(name, f"{{{name!r}: …}}"), ": the file holds no single value there, so it cannot be overridden")
    config[last] = value
