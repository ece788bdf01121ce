"""Arrays of the parts of a stage, such as q, k and v, put side by side as the stage has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from aprgraph.graph.errors import TraceError
from aprgraph.graph.stage_parts import PARTS, split_part
from aprgraph.graph.words import joined
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.manifest import TraceEntry


@dataclass(frozen=True)
class Parts:
    """In place of one key: the keys of several arrays, in the order of a row, each with the shape that it is taken in."""

    keys: tuple[tuple[Any, tuple[int, ...]], ...]


def whole_of(place: Place) -> Place:
    """The place of the whole stage."""
    return place._replace(stage=split_part(place.stage)[0])


def part_of(place: Place) -> str | None:
    """Which part of its stage is at ``place``; None for a whole one."""
    return split_part(place.stage)[1]


def why_not_whole(places: Iterable[Place]) -> dict[Place, str]:
    """The stages of which some parts are among ``places``, and neither all nor the whole: each with that in words."""
    given: dict[Place, set[str | None]] = {}
    for place in places:
        given.setdefault(whole_of(place), set()).add(part_of(place))
    found = {}
    for whole, parts in given.items():
        if None in parts or parts == (every := PARTS[whole.stage].keys()):
            continue
        there, missing = ([part for part in every if (part in parts) is is_there] for is_there in (True, False))
        are = "is" if len(missing) == 1 else "are"
        found[whole] = (
            f"{whole.label} is compared whole, and {joined(missing)} {are} not there beside {joined(there)}; "
            f"where the layer computes nothing else, its place is {whole.name}"
        )
    return found


def by_execution(entry: TraceEntry) -> tuple[int, ...]:
    """Sort key: the execution order of whole stages, and parts in the order of a row."""
    stage, part = split_part(entry.stage)
    return (*replace(entry, stage=stage).order, -1 if part is None else list(PARTS[stage]).index(part))


def join_parts(where: str, fitted: Iterable[tuple[TraceEntry, Any]]) -> list[tuple[TraceEntry, Any]]:
    """Entries with their keys, ordered ``by_execution``; those of parts become one of the whole stage, whose key is Parts.

    Raises TraceError where parts are missing, where a stage is given whole too, or where its parts are not of the same positions.
    """
    groups: dict[Place, list[tuple[TraceEntry, Any]]] = {}
    for entry, key in fitted:
        groups.setdefault(whole_of(entry.key), []).append((entry, key))
    for why in why_not_whole(entry.key for group in groups.values() for entry, _ in group).values():
        raise TraceError(f"{where}: {why}")
    return [group[0] if part_of(group[0][0].key) is None and len(group) == 1 else _join(where, group) for group in groups.values()]


def _join(where: str, group: list[tuple[TraceEntry, Any]]) -> tuple[TraceEntry, Parts]:
    first = group[0][0]
    whole = whole_of(first.key)
    if part_of(first.key) is None:
        raise TraceError(f"{where}: {whole.label} is there whole, and in parts too; leave out one of the two")
    if len({entry.shape[:-1] for entry, _ in group}) > 1:
        sizes = joined([f"{part_of(entry.key)} has {entry.shape[0]}" for entry, _ in group])
        raise TraceError(f"{where}: the parts of {whole.label} are not of the same positions: {sizes}")
    width = sum(entry.shape[-1] for entry, _ in group)
    entry = replace(first, stage=whole.stage, shape=(*first.shape[:-1], width))
    return entry, Parts(tuple((key, entry.shape) for entry, key in group))
