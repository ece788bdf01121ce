"""What arrays there are, for somebody who has to say where they belong: their names as patterns, their shapes, and a rule for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aprgraph.graph.stage_suggestions import nearest_part, remark_on
from aprgraph.runtime.trace.array_trace import TOKENS
from aprgraph.runtime.trace.unread_files import name_of_place, suggest_place

#: Numbers that count something: a whole part of a name, or behind a word for what is counted. Others, as in `norm2`, are of the name.
_NUMBER = re.compile(r"(?:(?<=[./])|^|(?<=step)|(?<=layers)|(?<=layer)|(?<=layer[-_])|(?<=blocks)|(?<=block))\d+(?=[./]|$)")
_STEP, _LAYER = re.compile(r"step(\d+)\."), re.compile(r"layer(\d+)\.")


@dataclass(frozen=True)
class ArrayNames:
    """Arrays whose names differ in what they count alone: ``pattern`` has {} for each, ``shapes`` are theirs, each once.

    ``rule`` is the REGEX=PLACE that puts them where their name says they belong; None where it says nothing. ``remark`` is what to know
    of the name then.
    """

    pattern: str
    count: int
    shapes: tuple[tuple[int, ...], ...]
    rule: str | None
    remark: str | None


def survey_names(arrays: Mapping[str, Any]) -> list[ArrayNames]:
    """The arrays by pattern, in their order. Raises TraceError for a file that cannot be read."""
    groups: dict[str, list[str]] = {}
    for name in arrays:
        groups.setdefault(_NUMBER.sub("{}", name), []).append(name)
    found = []
    for pattern, names in groups.items():
        rule, remark = (None, "the prompt's token ids") if pattern in TOKENS else _rule(names[0])
        # A rule is for what stands behind a dot too: here that is something else.
        if rule is not None and any(other.endswith((f".{pattern}", f"/{pattern}")) for other in groups):
            rule = f"^{rule}"
        found.append(ArrayNames(pattern, len(names), tuple(dict.fromkeys(np.shape(arrays[name]) for name in names)), rule, remark))
    return found


def _rule(name: str) -> tuple[str | None, str | None]:
    """The rule for names like ``name``, of which steps and layers are taken up, and what is to be known of it."""
    place, word = suggest_place(name)
    if place is None or word is None:
        return None, None
    remark = remark_on(word)
    if remark is not None and nearest_part(word) is None:  # no array like this one has the place alone
        return None, remark
    target = name_of_place(place, word)
    numbers = [int(found) for found in _NUMBER.findall(name)]
    expression = r"(\d+)".join(re.escape(part) for part in _NUMBER.split(name))
    written = ""
    for counted, pattern in (("step", _STEP), ("layer", _LAYER)):
        if (match := pattern.match(target)) is None:
            continue
        first = numbers.index(int(match[1])) + 1 if int(match[1]) in numbers else 0
        # The step stands before the layer, whose number may be the same.
        group = len(numbers) - numbers[::-1].index(int(match[1])) if first and counted == "layer" else first
        written += f"{counted}\\{group}." if group else match[0]
        target = target[match.end() :]
    return f"{expression}={written}{target}", remark
