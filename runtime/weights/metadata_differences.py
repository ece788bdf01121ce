"""What two files say of their models beside the tensors: hyperparameters and tokenizers, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from aprgraph.graph.errors import shown
from aprgraph.graph.families import Family
from aprgraph.graph.families.numbers import Number
from aprgraph.graph.families.window import CheckpointWindows
from aprgraph.graph.metadata import ArrayValue, Metadata
from aprgraph.graph.words import counted
from aprgraph.runtime.weights.own_order import family_of

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
    ours, theirs = family_of(a), family_of(b)
    if ours is None or theirs is None:
        return list(_raw(a, b, f"{architectures[0]}.", bears=True))
    unlike = list(_readings(ours, theirs))
    by_key = {ours.key(one.gguf) for one in ours.readings().values() if isinstance(one, Number)}
    unlike_keys = {one.key for one in unlike}
    # Of what comes from several keys, such as RoPE, any that is read may be why.
    others_read = (ours.metadata.keys_read | theirs.metadata.keys_read) - by_key if unlike_keys - by_key else frozenset()
    with_defaults = [{**family.metadata.defaults, **family.metadata} for family in (ours, theirs)]
    keys = [
        replace(one, bears=one.key in unlike_keys or one.key in others_read)
        for one in _raw(with_defaults[0], with_defaults[1], f"{architectures[0]}.", bears=False)
    ]
    return keys if any(one.bears for one in keys) or not unlike else [*unlike, *keys]


def _readings(a: Family, b: Family) -> Iterator[KeyDifference]:
    """What the family reads, where that differs."""
    for name, reading in a.readings().items():
        if name in a.form_numbers:
            continue
        if isinstance(reading, CheckpointWindows) and a.metadata.dialect != b.metadata.dialect:
            continue  # what the kind of file decides, not what it holds
        ours, theirs = _taken(a, name), _taken(b, name)
        if name == "qk_norm" and a.metadata.dialect != b.metadata.dialect:  # a GGUF file says so by its tensors alone
            continue
        if not _equal(ours, theirs):
            key = a.key(reading.gguf) if isinstance(reading, Number) else name
            yield KeyDifference(key, _in_words(ours), _in_words(theirs), bears=True)


def _taken(family: Family, name: str) -> object:
    """What the family makes of a number: layers that predict later tokens are left out, and 0 means its own way of choosing experts."""
    value: object = getattr(family, name)
    if name == "extra_layers":
        return 0
    return value or getattr(family, "gating_function", value) if name == "gating" else value


def tokenizer_differences(a: Metadata, b: Metadata) -> list[KeyDifference]:
    """The keys of the tokenizer that differ.

    Where one file has no tokenizer, or the two are of kinds that say other things of it, what one side lacks bears on nothing.
    """
    sides = [any(key.startswith(_TOKENIZER) for key in side) for side in (a, b)]
    if sides[0] != sides[1]:
        words = ["a tokenizer" if side else "no tokenizer" for side in sides]
        return [KeyDifference("tokenizer", words[0], words[1], bears=False)]
    unlike = _raw(a, b, _TOKENIZER, bears=True)
    return [replace(one, bears=a.dialect == b.dialect or (one.key in a and one.key in b)) for one in unlike]


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
    unlike = [index for index, (left, right) in enumerate(zip(ours, theirs, strict=False)) if left != right and not _equal(left, right)]
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
    if is_dataclass(a) and type(a) is type(b):
        return all(_equal(getattr(a, part.name), getattr(b, part.name)) for part in fields(a))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
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
