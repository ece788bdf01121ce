"""The table of families: those of the package, and those that others bring."""

from __future__ import annotations

import inspect
from typing import TypeVar

from aprgraph.graph.errors import AprgraphError, UnsupportedModelError, shown
from aprgraph.graph.families.base import Family
from aprgraph.graph.metadata import Metadata

_F = TypeVar("_F", bound=type[Family])

#: By ``general.architecture``.
FAMILIES: dict[str, type[Family]] = {}


def register(family: _F) -> _F:
    """Make a family known, so that files of its architecture can be opened; it may stand as a decorator of the class.

    Raises AprgraphError if another family has the architecture, or if the class names none.
    """
    architecture = getattr(family, "architecture", None)
    if not isinstance(architecture, str) or not architecture:
        raise AprgraphError(
            f'{where_is(family)}: the family {family.__name__} names no architecture; expected such as architecture = "llama", the '
            "general.architecture of its files"
        )
    there = FAMILIES.setdefault(architecture, family)
    if there is not family:
        raise AprgraphError(
            f"two families have the architecture {architecture!r}: {there.__name__} ({where_is(there)}) and {family.__name__} "
            f"({where_is(family)}); expected one, so rename or drop one of them"
        )
    return family


def where_is(family: type[Family]) -> str:
    """The file that a family is declared in."""
    try:
        return inspect.getfile(family)
    except (OSError, TypeError):
        return family.__module__


def find_family(metadata: Metadata) -> type[Family]:
    """The family of a model. Raises UnsupportedModelError that lists those there are."""
    architecture = metadata.text("general.architecture")
    if architecture not in FAMILIES:
        raise UnsupportedModelError(
            f"{metadata.path}: general.architecture is {shown(architecture)}; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[architecture]
