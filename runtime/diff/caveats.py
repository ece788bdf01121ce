"""Which notes a reader needs first. Notes are Messages or strings; how much one weighs is its type."""

from __future__ import annotations

from collections.abc import Iterable

from aprgraph.graph.message import Message


class Caveat(Message):
    """A note that makes the verdict less certain than it sounds: what was not read or compared, what the run cannot show."""

    __slots__ = ()


class Aside(Message):
    """A note for the record."""

    __slots__ = ()


def by_importance(notes: Iterable[str]) -> tuple[str, ...]:
    """Each note once: caveats first, what is for the record last."""
    return tuple(sorted(dict.fromkeys(notes), key=lambda note: (not isinstance(note, Caveat), isinstance(note, Aside))))
