"""The names by which a program asks a trace for tensors: those that ``Trace.write`` takes."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from aprgraph.graph.arguments import LAYERS, TAPS
from aprgraph.graph.errors import NotRecordedError, TraceError, shown
from aprgraph.graph.stage_parts import split_part
from aprgraph.graph.words import listed
from aprgraph.runtime.place import Place

_NAMED = 3
#: Where arrays of other names belong: rules ``REGEX=PLACE``, a mapping of regular expressions to places, or the path of a file of rules
#: (name_map.py, rule_files.py).
NameRules: TypeAlias = Sequence[str] | Mapping[str, str] | Path


def find_place(key: object) -> Place | None:
    """The place that a name such as ``layer3.ffn_gate``, or a tuple as ``Trace.write`` takes it, is of; None for anything else."""
    from aprgraph.runtime.trace.from_arrays import read_name  # noqa: PLC0415 -- it needs the reader

    if isinstance(key, Place):
        return key
    if isinstance(key, tuple) and len(key) == 3 and isinstance(key[2], str):
        return Place(*key)
    try:
        place = read_name("", key)
    except TraceError:
        return None
    return place if split_part(place.stage)[1] is None else None  # what is recorded are whole stages


def place_in(where: str, recorded: Collection[Place], key: Any) -> Place:
    """The place of ``key`` among those that were ``recorded``. Raises NotRecordedError, naming those that are nearest."""
    place = find_place(key)
    if place in recorded:
        assert place is not None
        return place
    names = [one.name for one in recorded]
    near = difflib.get_close_matches(str(key), names, n=_NAMED)
    held = f"did you mean {' or '.join(near)}?" if near else f"it holds {listed(names, _NAMED)}" if names else "it holds nothing"
    if place is None:
        raise NotRecordedError(f"{where}: {shown(key)} is the name of no tensor, expected such as 'layer3.ffn_gate' or 'lm_head'; {held}")
    raise NotRecordedError(f"{where}: {place.label} was not recorded; tap it with ", TAPS, " and ", LAYERS, f"; {held}")
