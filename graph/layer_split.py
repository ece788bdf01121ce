"""Which machine computes which layers, as a run is told: ``0..16@one:9090,16..32@two:9090``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aprgraph.graph.arguments import SPLIT
from aprgraph.graph.errors import PlanError, shown
from aprgraph.graph.tap_plan import OPEN_END, parse_range, range_text

_FORM = "expected ranges of layers with commas between, such as 0..16@one:9090,16..32@two:9090"


@dataclass(frozen=True)
class LayerRange:
    """``layers`` are computed at ``place``: HOST:PORT[/KEY] of a TVM RPC server, or empty for a worker of an executor."""

    layers: range
    place: str = ""

    def __str__(self) -> str:
        return f"{range_text(self.layers)}{f'@{self.place}' if self.place else ''}"


def parse_split(text: str) -> tuple[LayerRange, ...]:
    """The ranges in ``text``, in the forms of ``parse_layers``, by their first layers; all have a place, or none. Raises PlanError."""
    found = []
    for part in text.split(","):
        layers, at, place = (word.strip() for word in part.partition("@"))
        if not layers or (at and not place):
            raise PlanError(SPLIT.given(shown(text)), f": {shown(part)} is no range of layers at a place; {_FORM}")
        found.append(LayerRange(parse_range(layers, SPLIT, "layer", "such as 0..16 for the first sixteen"), place))
    without = [one for one in found if not one.place]
    if without and len(without) < len(found):
        raise PlanError(SPLIT.given(shown(text)), f": {without[0]} has no place, and others have; give all of them one, or none; {_FORM}")
    places = [one.place for one in found if one.place]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise PlanError(SPLIT.given(shown(text)), f": {twice} appears twice, and a server serves one client at a time; start two there")
    return tuple(sorted(found, key=lambda one: one.layers.start))


def split_of_model(split: Sequence[LayerRange], count: int) -> tuple[LayerRange, ...]:
    """``split`` for a model of ``count`` layers: without open ends. Raises PlanError unless each layer is in one range."""
    text = ",".join(map(str, split))
    given = SPLIT.given(text, repr(text))
    closed, reached = [], 0
    for one in split:
        start, stop = one.layers.start, count if one.layers.stop == OPEN_END else one.layers.stop
        if stop > count or start >= count:
            raise PlanError(
                given, f": {one} goes beyond the model's {count} layers; END is exclusive, so the last range is to end with {count}"
            )
        if start < reached:
            raise PlanError(given, f": layer {start} is in two ranges; each begins where the one before it ends")
        if start > reached:
            raise PlanError(given, f": no range has {_named(reached, start)}; each begins where the one before it ends, the first at 0")
        closed.append(replace(one, layers=range(start, stop)))
        reached = stop
    if reached < count:
        raise PlanError(given, f": no range has {_named(reached, count)}; the last is to end with {count}, or to have no END")
    return tuple(closed)


def _named(start: int, stop: int) -> str:
    return f"layer {start}" if stop == start + 1 else f"the layers {start} to {stop - 1}"
