"""Changes of a value, a text or bytes to near ones: one field at a time, or a few."""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 3, 7, 8, 31, 32, 63, 64, 65, 127, 128, 255, 256, 257, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**53,
           2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**9, -1, -2, -(2**31), -(2**63))  # fmt: skip
FLOATS = (0.0, -0.0, 0.5, 1.5, -1.5, 1e-300, 5e-324, 1e30, 1e308, -1e308)
TEXTS = ("", " ", "x", "\0", "a\0b", "../../etc/passwd", "/etc/passwd", ".", "..", "\x1b[2J", "\u202e", "é", "\U0001f600", "%s{}", "lm_head",
         "ffn_up", "nan", "null", "0", "-1", "1e999", "9" * 400, "x" * 5000, "(a+)+b", "<script>", "a\nb", "'\"`$(x)")  # fmt: skip
#: What Python's writer of JSON does not make.
RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    '"\\ud800"',
    "[" * 3000 + "]" * 3000,
    "[" * 100 + "]" * 100,
    '{"a":1,"a":2}',
    "",
    "\ufeff",
    "'x'",
)
_MARK = "\u0001raw\u0001"
_WORDS = re.compile(r"\w+|\s+|.", re.DOTALL)


def any_value(random: Random, near: Any = None) -> Any:
    """A value of any kind; often one that differs a little from ``near``."""
    if random.random() < 0.4:
        if isinstance(near, bool):
            return not near
        if isinstance(near, int):
            return near + random.choice((-1, 1, 2, near, 100, -near))
        if isinstance(near, float):
            return near * random.choice((-1.0, 2.0, 1e10, 0.0))
        if isinstance(near, str):
            return mutate_text(random, near, 1)
        if isinstance(near, list) and near:
            return random.choice((near[:-1], near * 2, [*near, random.choice(near)], near[::-1], [near], near * 40))
        if isinstance(near, dict) and near:
            return {key: value for key, value in near.items() if key != random.choice(list(near))}
    kind = random.randrange(9)
    simple: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"a": 1}, [[1], [2]])
    if kind < 3:
        return random.choice(NUMBERS)
    if kind == 3:
        return random.choice(FLOATS)
    if kind < 6:
        return random.choice(TEXTS)
    return copy.deepcopy(random.choice(simple))


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


def mutate_json(random: Random, document: Any, most: int = 3) -> str:
    """The text of ``document`` with one to ``most`` changes."""
    changed, raw = copy.deepcopy(document), {}
    for _ in range(random.randint(1, most)):
        # Each depth as often as the others: else nearly all changes would be of leaves in long lists.
        places = _places(changed)
        depth = random.choice(sorted({len(place) for place in places}))
        path = random.choice([place for place in places if len(place) == depth])
        if not path:
            if random.random() < 0.05:
                changed = any_value(random, changed)
            continue
        holder = changed
        for part in path[:-1]:
            holder = holder[part]
        key, choice = path[-1], random.random()
        if choice < 0.12:
            del holder[key]
        elif choice < 0.2:
            raw[f"{_MARK}{len(raw)}"] = random.choice(RAW)
            holder[key] = f"{_MARK}{len(raw) - 1}"
        elif choice < 0.35:  # what stands elsewhere
            other = changed
            for part in random.choice(places):
                other = (
                    other[part] if (isinstance(other, dict) and part in other) or (isinstance(other, list) and part < len(other)) else other
                )
            holder[key] = copy.deepcopy(other) if len(json.dumps(other)) < 1 << 16 else None
        elif choice < 0.4 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif choice < 0.43 and isinstance(holder, dict):
            holder[str(any_value(random, key))] = holder.pop(key)
        else:
            holder[key] = any_value(random, holder[key])
    text = json.dumps(changed, ensure_ascii=random.random() < 0.8)
    for mark, instead in raw.items():
        text = text.replace(json.dumps(mark), instead)
    return mutate_text(random, text, 1) if random.random() < 0.05 else text


def mutate_text(random: Random, text: str, most: int = 4, words: Sequence[str] = ()) -> str:
    """``text`` with one to ``most`` changes of its words, lines or characters; ``words`` may come in."""
    for _ in range(random.randint(1, most)):
        choice = random.random()
        if choice < 0.25 or "\n" not in text:
            parts = _WORDS.findall(text)
        elif choice < 0.6:
            parts = text.splitlines(keepends=True)
        else:
            parts = list(text)
        if not parts:
            return random.choice(TEXTS)
        at = random.randrange(len(parts))
        how = random.randrange(8)
        if how == 0:
            del parts[at]
        elif how == 1:
            parts.insert(at, parts[at])
        elif how == 2:
            other = random.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif how == 3:
            parts[at] = random.choice(parts)
        elif how == 4:
            parts[at] = str(random.choice((*NUMBERS, *FLOATS)))
        elif how == 5:
            parts.insert(at, random.choice((*TEXTS, *words)) if words else random.choice(TEXTS))
        elif how == 6 and random.random() < 0.3:
            parts = parts[:at]
        else:
            parts[at] = "".join(sorted(parts[at])) if len(parts[at]) > 1 else chr(random.choice((0, 9, 32, 37, 40, 44, 123, 0x2028, 0xE9)))
        text = "".join(parts)
    return text


def mutate_bytes(random: Random, data: bytes, end: int, most: int = 4) -> bytes:
    """``data`` with one to ``most`` changes before ``end``: numbers of 1 to 8 bytes set to others, bytes put in or left out, cut off."""
    changed = bytearray(data)
    for _ in range(random.randint(1, most)):
        limit = min(end, len(changed))
        if limit < 9:
            return bytes(changed)
        at, how = random.randrange(limit - 8), random.random()
        if how < 0.6:
            size, layout = random.choice(((1, "<B"), (2, "<H"), (4, "<I"), (4, "<I"), (8, "<Q"), (8, "<Q")))
            [old] = struct.unpack_from(layout, changed, at)
            new = random.choice((random.choice(NUMBERS), old + 1, old - 1, old ^ (1 << random.randrange(8 * size)), old * 2))
            struct.pack_into(layout, changed, at, new % (1 << (8 * size)))
        elif how < 0.7:
            changed[at : at + random.randrange(1, 9)] = b""
        elif how < 0.8:
            changed[at:at] = random.randbytes(random.randrange(1, 9))
        elif how < 0.83:
            del changed[random.randrange(len(changed)) :]
        elif how < 0.86:
            changed += bytes(random.randrange(1, 64))
        else:
            begin = random.randrange(limit - 8)
            changed[at : at + 8] = changed[begin : begin + 8]
    return bytes(changed)
