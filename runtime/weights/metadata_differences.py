"""What two files say of their models beside the tensors: hyperparameters and tokenizers, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aprgraph.graph.errors import AprgraphError, shown
from aprgraph.graph.families import Family, open_family
from aprgraph.graph.families.numbers import Number
from aprgraph.graph.metadata import ArrayValue, Metadata
from aprgraph.graph.words import counted

_ARCHITECTURE = "general.architecture"
_TOKENIZER = "tokenizer."
#: Lengths of text that are quoted.
_QUOTED = 40


@dataclass(frozen=True)
class KeyDifference:
    """A key, and its value on each side in words. ``bears``: the numbers of a run, or what a prompt becomes, depend on it."""

    key: str
    a: str
    b: str
    bears: bool

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"key": self.key, "a": self.a, "b": self.b, "bears": self.bears}


def hyperparameter_differences(a: Metadata, b: Metadata) -> list[KeyDifference]:
    """The keys of the family that differ.

    Where both files are of a family that is known, the numbers that it takes from them are compared, so that a key that
    one side leaves to its default is no difference; other keys of the family then bear on nothing.
    """
    architectures = a.get(_ARCHITECTURE), b.get(_ARCHITECTURE)
    if architectures[0] != architectures[1]:
        return [KeyDifference(_ARCHITECTURE, _in_words(architectures[0]), _in_words(architectures[1]), bears=True)]
    ours, theirs = _family(a), _family(b)
    if ours is None or theirs is None:
        return list(_raw(a, b, f"{architectures[0]}.", bears=True))
    unlike = list(_readings(ours, theirs))
    keys_read = ours.metadata.keys_read | theirs.metadata.keys_read
    with_defaults = [{**family.metadata.defaults, **family.metadata} for family in (ours, theirs)]
    keys = [
        replace(one, bears=bool(unlike) and one.key in keys_read)
        for one in _raw(with_defaults[0], with_defaults[1], f"{architectures[0]}.", bears=False)
    ]
    return keys if any(one.bears for one in keys) or not unlike else [*unlike, *keys]


def _family(metadata: Metadata) -> Family | None:
    """The family with its numbers, None if it is not known or they do not make a model."""
    try:
        return open_family(metadata.with_overrides({}))
    except AprgraphError:
        return None


def _readings(a: Family, b: Family) -> Iterator[KeyDifference]:
    """What the family reads, where that differs."""
    for name, reading in a.readings().items():
        ours, theirs = getattr(a, name), getattr(b, name)
        if not _equal(ours, theirs):
            key = a.key(reading.gguf) if isinstance(reading, Number) else name
            yield KeyDifference(key, _in_words(ours), _in_words(theirs), bears=True)


def tokenizer_differences(a: Metadata, b: Metadata) -> list[KeyDifference]:
    """The keys of the tokenizer that differ. One that only one side has is a difference; so is a tokenizer."""
    sides = [any(key.startswith(_TOKENIZER) for key in side) for side in (a, b)]
    if sides[0] != sides[1]:
        words = ["a tokenizer" if side else "no tokenizer" for side in sides]
        return [KeyDifference("tokenizer", words[0], words[1], bears=True)]
    return list(_raw(a, b, _TOKENIZER, bears=True))


def _raw(a: Mapping[str, object], b: Mapping[str, object], prefix: str, *, bears: bool) -> Iterator[KeyDifference]:
    for key in dict.fromkeys([*a, *b]):
        if not key.startswith(prefix):
            continue
        ours, theirs = a.get(key), b.get(key)
        if isinstance(ours, ArrayValue) and isinstance(theirs, ArrayValue):
            difference = _array_difference(key, ours, theirs, bears=bears)
            if difference is not None:
                yield difference
        elif not _equal(ours, theirs):
            yield KeyDifference(key, _in_words(ours), _in_words(theirs), bears)


def _array_difference(key: str, a: ArrayValue, b: ArrayValue, *, bears: bool) -> KeyDifference | None:
    ours, theirs = a.values(), b.values()
    unlike = [index for index, (left, right) in enumerate(zip(ours, theirs, strict=False)) if not _equal(left, right)]
    if not unlike and len(ours) == len(theirs):
        return None
    if not unlike:
        return KeyDifference(
            key, counted(len(ours), "entry").replace("entrys", "entries"), f"{len(theirs):,}, alike as far as both go", bears
        )
    first, more = unlike[0], f" ({len(unlike):,} of {min(len(ours), len(theirs)):,} differ)"
    return KeyDifference(key, f"[{first}] = {_in_words(ours[first])}", f"{_in_words(theirs[first])}{more}", bears)


def _equal(a: object, b: object) -> bool:
    """Whether two values are the same number: one file may hold it in float32 where the other has decimal digits."""
    if isinstance(a, float) and isinstance(b, (int, float)) or isinstance(b, float) and isinstance(a, (int, float)):  # noqa: RUF021
        return a == b or bool(np.float32(a) == np.float32(b)) or (a != a and b != b)  # noqa: PLR0124 -- both NaN
    return bool(a == b)


def _in_words(value: object) -> str:
    if value is None:
        return "not there"
    if isinstance(value, ArrayValue):
        return f"an array of {len(value):,}"
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float):
        return f"{value:.7g}"
    text = shown(value)
    return text if len(text) <= 2 * _QUOTED else f"{text[:_QUOTED]} … {text[-_QUOTED:]}"
