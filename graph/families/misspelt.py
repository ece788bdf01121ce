"""Names in a family's own file that are nearly those of something, and so mean nothing: a method, a number, a slot."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from aprgraph.graph.errors import AprgraphError, shown
from aprgraph.graph.families.base import Family
from aprgraph.graph.families.own_code import is_own_family, where_is
from aprgraph.graph.families.weight_names import GGUF_NAMES, HF_NAMES
from aprgraph.graph.stages import STAGE_BY_NAME

#: The share of letters in common from which on one name may be the other misspelt, and the letters that it takes.
_ALIKE, _SHORTEST = 0.8, 4


def check_attributes(family: type[Family]) -> None:
    """Raise AprgraphError for an attribute with nearly the name of one that it could override, if nothing uses it.

    Such a method would not be called, and such a number or pairing would have no effect. So would a method's name with
    something else in the place of the method.
    """
    for kind in _own_kinds(family):
        known = {name for parent in kind.__mro__[1:] for name in vars(parent) if not name.startswith("_")}
        text = _text_of(kind)
        for name, value in vars(kind).items():
            if name.startswith("_"):
                continue
            is_method = inspect.isroutine(getattr(super(kind, kind), name, None))
            if is_method and not inspect.isroutine(value):
                raise AprgraphError(
                    f"{_place(kind, name, text)}: {name} of the family {kind.__name__} is {shown(value)}, expected a method"
                )
            if name in known or _count(name, text) != 1:
                continue
            near = [other for other in _near(name, known) if other not in vars(kind)]
            if near:
                raise AprgraphError(
                    f"{_place(kind, name, text)}: {name} of the family {kind.__name__} overrides nothing, and nothing uses it; was "
                    f"{near[0]} meant?"
                )


def check_slots(family: type[Family], asked: Iterable[str]) -> None:
    """Raise AprgraphError for a slot of ``gguf_names`` or ``hf_names`` that is nearly another, and in no graph.

    ``asked`` are the slots that the graph of a model of the family has asked for.
    """
    slots = {*asked, *GGUF_NAMES, *HF_NAMES, *STAGE_BY_NAME}
    for kind in _own_kinds(family):
        text = _text_of(kind)
        tables = [name for name in ("gguf_names", "hf_names") if name in vars(kind)]
        for slot in [slot for table in tables for slot in vars(kind)[table]]:
            # Named once more: a slot that only other models of the family have.
            if slot in slots or _count(slot, text) > sum(slot in vars(kind)[table] for table in tables):
                continue
            near = _near(slot, slots)
            if near:
                table = next(table for table in tables if slot in vars(kind)[table])
                raise AprgraphError(
                    f"{_place(kind, slot, text)}: {table} of the family {kind.__name__} names the slot {slot!r}, which no weight of "
                    f"its graph has; was {near[0]!r} meant?"
                )


def _own_kinds(family: type[Family]) -> list[type[Family]]:
    """The family and its parents, those in the package aside."""
    return [kind for kind in family.__mro__ if issubclass(kind, Family) and is_own_family(kind)]


def _text_of(kind: type[Family]) -> str:
    """The text of the file that a family is declared in; empty where there is none, as in an interactive session."""
    try:
        return Path(where_is(kind)).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _count(name: str, text: str) -> int:
    """How often a name stands in a text as a whole word."""
    return len(re.findall(rf"\b{re.escape(name)}\b", text))


def _place(kind: type[Family], name: str, text: str) -> str:
    """The file of a family, and the first line in its ``text`` with a name."""
    line = next((f":{number}" for number, line in enumerate(text.splitlines(), 1) if _count(name, line)), "")
    return f"{where_is(kind)}{line}"


def _near(name: str, known: Iterable[str]) -> list[str]:
    """Those of ``known`` that ``name`` may be a misspelling of, the nearest first."""
    if len(name) < _SHORTEST:
        return []
    return difflib.get_close_matches(name, sorted(known), cutoff=_ALIKE)
