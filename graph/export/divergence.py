"""How far a stage diverges, as a picture shows it: the classes, their colours, and what a fold of layers shows.

The differ decides the classes; this table says only how they look. The bars are the colours of Okabe and Ito (Color
Universal Design, 2008), which people with any of the common colour-vision deficiencies tell apart; blue is good,
warm is bad, and the class is always written beside the colour too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aprgraph.graph.stages import STAGE_BY_NAME, StageKind

#: (layer, stage) -> (class name, NMSE or None); layer is None for whole-model stages. For stages of expert ids, the number
#: is the share of positions with another set of ids.
Colouring = Mapping[tuple[int | None, str], tuple[str, float | None]]


@dataclass(frozen=True)
class DivergenceClass:
    """One class. ``bar`` is its strong colour, ``light`` and ``dark`` fill a box on a light or dark page (CSS colours)."""

    name: str
    summary: str
    bar: str
    light: str
    dark: str
    #: Whether layers that differ in it are never folded together.
    stands_apart: bool = False


#: From the least to the most severe.
CLASSES: tuple[DivergenceClass, ...] = (
    DivergenceClass("IDENTICAL", "the same bits on both sides", "#0072b2", "#e1edf7", "#122a3d"),
    DivergenceClass("NOISE", "within what the arithmetic explains", "#56b4e9", "#e9f6fd", "#153240"),
    DivergenceClass("UNMEASURED", "not recorded on both sides", "#8c8c8c", "#f3f3f3", "#24272c", stands_apart=True),
    DivergenceClass("PROPAGATED", "diverges, and so did what it is computed from", "#e69f00", "#fdf2d8", "#3a2d0e"),
    DivergenceClass("ACCUMULATED", "noise that has added up", "#b8a900", "#faf7c8", "#36330c"),
    DivergenceClass("INTRODUCED", "diverges, though what it is computed from does not", "#d55e00", "#fbdccb", "#50260d", stands_apart=True),
    DivergenceClass("SHAPE", "of different shapes", "#5b4fa8", "#e5e1f6", "#2b2649", stands_apart=True),
    DivergenceClass("NAN", "NaN or Inf on one side", "#b0467f", "#f7dcea", "#451f38", stands_apart=True),
)

CLASS_BY_NAME: dict[str, DivergenceClass] = {cls.name: cls for cls in CLASSES}
UNMEASURED = CLASS_BY_NAME["UNMEASURED"]
_SEVERITY = {cls.name: index for index, cls in enumerate(CLASSES)}


@dataclass(frozen=True)
class Divergence:
    """What one box shows. For a fold, the worst of its layers: ``layer`` is that layer and ``note`` tells of the others."""

    cls: DivergenceClass
    nmse: float | None
    layer: int | None = None
    note: str | None = None
    measure: str = "NMSE"

    @property
    def label(self) -> str:
        """``INTRODUCED, NMSE 3.6e-01``."""
        return self.cls.name if not self.nmse else f"{self.cls.name}, {self.measure} {self.nmse:.1e}"


def severity(cls: DivergenceClass) -> int:
    """A rank among classes; one that is not known here counts as the most severe."""
    return _SEVERITY.get(cls.name, len(CLASSES))


def divergence_of(colouring: Colouring, layer: int | None, stage: str) -> Divergence:
    """The divergence of one stage; UNMEASURED where the colouring has none. A class that is not known here looks like it."""
    name, nmse = colouring.get((layer, stage), (UNMEASURED.name, None))
    known = CLASS_BY_NAME.get(name)
    cls = known or DivergenceClass(name, "", UNMEASURED.bar, UNMEASURED.light, UNMEASURED.dark, stands_apart=True)
    is_index = stage in STAGE_BY_NAME and STAGE_BY_NAME[stage].kind is StageKind.INDEX
    return Divergence(cls, nmse, layer, measure="other ids" if is_index else "NMSE")


def worst(divergences: Sequence[Divergence]) -> Divergence:
    """The worst of the layers of a fold, with a note on where it is and what the other layers are."""
    # max gives the first of equals, which is the earliest layer.
    chosen = max(divergences, key=lambda item: (severity(item.cls), -1.0 if item.nmse is None else item.nmse))
    counts: dict[str, int] = {}
    for item in divergences:
        counts[item.cls.name] = counts.get(item.cls.name, 0) + 1
    note = None
    if len(counts) > 1:
        others = [f"{count} {name}" for name, count in counts.items() if name != chosen.cls.name]
        note = f"worst: layer {chosen.layer}; {', '.join(others)}"
    elif chosen.nmse is not None and len({item.nmse for item in divergences}) > 1:
        note = f"worst: layer {chosen.layer}"
    return replace(chosen, note=note)
