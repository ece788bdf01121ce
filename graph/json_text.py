"""JSON in which no name of an object appears twice: readers differ in which of two values they take."""

from __future__ import annotations

import json
from typing import Any

from aprgraph.graph.errors import shown


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what is no JSON, and for a name that appears twice in one object."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{shown(twice)} appears twice in one object")
    return found
