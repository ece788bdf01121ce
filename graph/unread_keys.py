"""No key of a model passes in silence: it is read, or changes nothing, or a notice or an error says that it was not applied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aprgraph.graph.arguments import IGNORE, OVERRIDES, Argument
from aprgraph.graph.errors import UnsupportedModelError, shown
from aprgraph.graph.families import FAMILIES, Family
from aprgraph.graph.key_conditions import Surroundings
from aprgraph.graph.message import Message, join_messages
from aprgraph.graph.metadata import ArrayValue
from aprgraph.graph.model_keys import ModelKey, find_model_key
from aprgraph.graph.side_tensors import pattern_of

#: Words in the name of a key that is not known by which it says that it changes numbers. Others are bookkeeping of some tool.
_SHAPING = re.compile(
    r"scale|multiplier|soft_?cap|clamp|window|causal|alibi|temperature|gating|epsilon|residual|lora_rank"
    r"|only_layers|swiglu|no_rope|rotary|chunk_size|qk_(layer_?)?norm"
)
#: No key of a model has more elements than there may be layers; a longer array is not decoded.
#: Characters of a key's name in a sentence.
_MOST_OF_KEY = 120
_MOST_ELEMENTS = 4096


@dataclass(frozen=True)
class UnreadKey:
    """A key of the family that nothing has read and that could matter: what has to be said of it, and whether it is an error.

    ``ways`` are what lets a caller go on without it, where it is one.
    """

    key: str
    sentence: str
    ways: tuple[Argument, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether it is an error."""
        return bool(self.ways)


def account_for_keys(family: Family, ignore: Sequence[re.Pattern[str]]) -> list[str]:
    """Sentences about the keys of the family that nothing has read, and that could matter.

    ``ignore`` are patterns of keys to be left out all the same. Raises UnsupportedModelError for a key that would change numbers.
    """
    notices = []
    for unread in unread_keys(family, ignore):
        if unread.refused:
            ways = join_messages(" or ", map(Message, unread.ways))
            raise UnsupportedModelError(f"{family.metadata.path}: {unread.sentence}; to go on without it, give ", ways)
        notices.append(unread.sentence)
    return notices


def unread_keys(family: Family, ignore: Sequence[re.Pattern[str]] = ()) -> Iterator[UnreadKey]:
    """All that ``account_for_keys`` speaks of."""
    metadata, at, prefix = family.metadata, surroundings_of(family), f"{family.architecture}."
    for key, value in metadata.items():
        if not key.startswith(prefix) and key.partition(".")[0] in FAMILIES:
            sentence = (
                f"{_named(key)} is {shown(_plain(value))}: a key of another architecture than {family.architecture}, which nothing reads"
            )
            yield UnreadKey(key, sentence)
        elif (bare := find_model_key(key)) is not None and not bare.harmless and key not in metadata.keys_read:
            yield UnreadKey(
                key, f"{_named(key)} stands without its architecture, and nothing reads it so: was {_named(prefix + key)} meant?"
            )
    for name, value in at.values.items():
        key = prefix + name
        if key in metadata.keys_read:
            continue
        known = find_model_key(name)
        harmless = known is not None and (known.harmless or family.architecture in known.harmless_in)
        if known is not None and (harmless or is_neutral(known, value) or not known.matters(at)):
            continue
        own = metadata.own_name(key)
        if any(pattern.fullmatch(name) for pattern in ignore for name in (key, own)):
            yield UnreadKey(key, Message(f"{_named(own)} is {shown(value)}: left out, as ", IGNORE, " asks"))
        elif known is None and (value == 0 or _SHAPING.search(name) is None):
            yield UnreadKey(key, f"{_named(own)} is {shown(value)}: nothing here knows or reads this key")
        elif known is not None and known.unapplied:
            yield UnreadKey(key, f"{_named(own)} is {shown(value)} and is not applied: {known.unapplied}")
        else:
            yield _refusal(key, value, known, family)


def surroundings_of(family: Family) -> Surroundings:
    """The keys of the family, and what else decides whether one of them matters."""
    metadata, prefix = family.metadata, f"{family.architecture}."
    values = {key.removeprefix(prefix): _plain(value) for key, value in metadata.items() if key.startswith(prefix)}
    return Surroundings(values, family.activation, family.head_size, family.shared_ffn > 0)


def is_neutral(key: ModelKey, value: object) -> bool:
    """Whether a value, or every element of an array, is one with which ``key`` changes nothing."""
    return all(element in key.neutral for element in value) if isinstance(value, tuple) else value in key.neutral


def _refusal(key: str, value: object, known: ModelKey | None, family: Family) -> UnreadKey:
    """What is wrong with a key that would change numbers, and the way on."""
    own = family.metadata.own_name(key)
    name = _named(own) if own.isprintable() else shown(own)
    what = "a key that is not known here, and whose name says that it changes numbers" if known is None else known.what
    pattern = f"'{pattern_of(own)}'"
    ways = [IGNORE.given(pattern, f"[r{pattern}]")]
    if known is not None and known.neutral and isinstance(value, (int, float)):
        neutral = 1 if 1 in known.neutral and not isinstance(value, bool) else 0
        typed = "bool:false" if isinstance(value, bool) else f"{type(value).__name__}:{neutral}"
        ways.insert(0, OVERRIDES.given(f"{name}={typed}", f"{{{name!r}: {type(value)(neutral)!r}}}"))
    sentence = (
        f"{name} is {shown(value)} ({what}), which the family {family.architecture!r} does not apply here, so that the numbers would be "
        "wrong"
    )
    return UnreadKey(key, sentence, tuple(ways))


def _named(key: str) -> str:
    """A key in a sentence; a file may have one without end."""
    return key if len(key) <= _MOST_OF_KEY else f"{key[: _MOST_OF_KEY - 1]}…"


def _plain(value: object) -> object:
    """A value of the metadata; of an array, its elements."""
    if not isinstance(value, ArrayValue):
        return value
    return tuple(value.values()) if len(value) <= _MOST_ELEMENTS else f"an array of {len(value)}"
