"""JSON text to values, without what readers of JSON differ in, or what breaks whoever passes a value on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from aprgraph.graph.errors import shown

#: Lists and objects of a document lie no deeper in each other. Python's own bound is what is left of its stack, which differs from
#: place to place: what could be read could then not be written.
MOST_DEPTH = 64
#: Half a character, and its escape: no text with one can be written. Those from DC80 on stand for bytes of a file's name that are no UTF-8
#: (PEP 383), and are let through.
_HALF, _ESCAPE = re.compile("[\ud800-\udc7f\udd00-\udfff]"), re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what is no JSON, and for a name that appears twice in one object."""
    return json.loads(text, object_pairs_hook=_unique)


def parse_strict_json(text: str) -> Any:
    """As ``parse_json``, of a text that aprgraph wrote, or claims to have.

    Raises ValueError also for NaN, Infinity and numbers that come to that, for half characters, and for lists and objects that lie
    more than MOST_DEPTH deep in each other.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [part for one in level for part in _parts(one) if isinstance(part, (dict, list))]
        if not level:
            break
    else:
        raise ValueError(_too_deep())
    if _ESCAPE.search(text) is not None:
        broken = next((one for one in _texts(value) if _HALF.search(one)), None)
        if broken is not None:
            raise ValueError(f"{shown(broken)} holds half a character")
    return value


def _too_deep() -> str:
    return f"its lists and objects lie more than {MOST_DEPTH} deep in each other"


def _parts(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{shown(twice)} appears twice in one object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{shown(digits)} is beyond the numbers that there are in 64 bits")
    return value


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, names among them."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        else:
            if isinstance(one, dict):
                yield from one
            waiting.extend(_parts(one))
