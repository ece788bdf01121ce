"""How a stage looks in a picture of a comparison: its class, or whose fault it is, the colours, and what a fold of layers shows.

The differ decides the classes and the verdicts; these tables say only how they look. The hues are those of Okabe and Ito
(Color Universal Design, 2008), which people with any of the common colour-vision deficiencies tell apart; blue is good, warm
is bad, and the word is always written beside the colour. What is worse stands out more from the page, whether that is light or dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aprgraph.graph.stages import STAGE_BY_NAME, StageKind

#: (layer, stage) -> (name of a class or verdict, NMSE or None); layer is None for whole-model stages. For stages of expert ids, the
#: number is the share of positions with another set of ids; where a side is wrong, it is that side's local error.
Colouring = Mapping[tuple[int | None, str], tuple[str, float | None]]


@dataclass(frozen=True)
class DivergenceClass:
    """One class or verdict. ``bar`` is its strong colour on a light page and ``bar_dark`` on a dark one; ``light`` and ``dark`` fill
    a box there (CSS colours).
    """

    name: str
    summary: str
    bar: str
    bar_dark: str
    light: str
    dark: str
    #: Whether layers that differ in it are never folded together.
    stands_apart: bool = False
    #: What the number beside it is.
    measure: str = "NMSE"


#: What two tensors' values say, from the least to the most severe.
CLASSES: tuple[DivergenceClass, ...] = (
    DivergenceClass("IDENTICAL", "the same bits on both sides", "#76afd8", "#2d6a97", "#f3f8fc", "#111f2c"),
    DivergenceClass("NOISE", "within what the arithmetic explains", "#4a9fd8", "#3a82b5", "#ecf4fb", "#13293b"),
    DivergenceClass("UNMEASURED", "not recorded on both sides", "#8c8c8c", "#8c8c8c", "#f3f3f3", "#1d2126", stands_apart=True),
    DivergenceClass("OTHER FORM", "recorded in another form; what is computed from it agrees", "#4a9b8a", "#3f8f7f", "#e0f2ee", "#12302a"),
    DivergenceClass("PROPAGATED", "diverges, and so did what it is computed from", "#bd8200", "#b98420", "#fae9c0", "#362a0d"),
    DivergenceClass("ACCUMULATED", "noise that has added up", "#857900", "#b5a82a", "#f5f0b4", "#3b370e"),
    DivergenceClass(
        "INTRODUCED", "diverges, though what it is computed from does not", "#c24a00", "#ff9650", "#fbd3bd", "#6b2e0a", stands_apart=True
    ),
    DivergenceClass("SHAPE", "of different shapes", "#5b4fa8", "#b9aef5", "#d9d2f5", "#423685", stands_apart=True),
    DivergenceClass("NAN", "NaN or Inf on one side", "#9c2f6b", "#ff9fd0", "#f5c9e0", "#702353", stands_apart=True),
)
_LOCAL = "local error"
#: Whose fault it is, from the least to the most severe. What merely follows is quiet; where a side is wrong, the box glows.
VERDICTS: tuple[DivergenceClass, ...] = (
    DivergenceClass("RIGHT", "right on both sides, or on the one that recorded it", "#76afd8", "#2d6a97", "#f3f8fc", "#111f2c"),
    DivergenceClass("RECORDING", "computed right, but recorded in another form", "#4a9b8a", "#3f8f7f", "#e0f2ee", "#12302a"),
    DivergenceClass("FOLLOWS", "right, given its inputs, which are wrong or of another graph", "#a39a86", "#8f8776", "#f6f4ef", "#1d1c1a"),
    DivergenceClass("UNKNOWN", "could not be replayed, here or before", "#8c8c8c", "#8c8c8c", "#f3f3f3", "#1d2126", stands_apart=True),
    DivergenceClass("ADDS UP", "right all the way; small differences add up", "#857900", "#b5a82a", "#f5f0b4", "#3b370e"),
    DivergenceClass(
        "OTHER WEIGHTS", "right by each side's model, whose weights differ here or before", "#4f7a4a", "#9cc98f", "#e2f0dd", "#1f3a1c"
    ),
    DivergenceClass("OTHER GRAPH", "right, but the two graphs differ here", "#5b4fa8", "#b9aef5", "#d9d2f5", "#423685", True),
    DivergenceClass("A WRONG", "A is wrong here, given its inputs", "#a83279", "#ff9fd0", "#f9bcdc", "#7a2559", True, _LOCAL),
    DivergenceClass("B WRONG", "B is wrong here, given its inputs", "#c24a00", "#ff9650", "#ffbd94", "#7d350a", True, _LOCAL),
    DivergenceClass("BOTH WRONG", "both are wrong here, given their inputs", "#8c1d18", "#ffb3a8", "#fbaca4", "#86261f", True, _LOCAL),
)
#: Every look there is.
LOOKS: tuple[DivergenceClass, ...] = (*CLASSES, *VERDICTS)

#: What the summaries of verdicts call a side, where nobody has said its name.
_SIDES = ("A", "B")
CLASS_BY_NAME: dict[str, DivergenceClass] = {cls.name: cls for cls in LOOKS}
UNMEASURED = CLASS_BY_NAME["UNMEASURED"]
_RIGHT, *_OTHERS = VERDICTS
#: A picture by verdicts also has stages that were not recorded, which stand out more than right ones.
_SEVERITY = {cls.name: index for index, cls in enumerate((*CLASSES[:2], _RIGHT, CLASSES[2], *_OTHERS[:6], *CLASSES[3:], *_OTHERS[6:]))}


@dataclass(frozen=True)
class Divergence:
    """What one box shows. For a fold, the worst of its layers: ``layer`` is that layer and ``note`` tells of the others."""

    cls: DivergenceClass
    nmse: float | None
    layer: int | None = None
    note: str | None = None
    measure: str = "NMSE"

    @property
    def is_fault(self) -> bool:
        """Whether a side is wrong there."""
        return self.cls.measure == _LOCAL

    @property
    def label(self) -> str:
        """``INTRODUCED, NMSE 3.6e-01``."""
        return self.cls.name if not self.nmse else f"{self.cls.name}, {self.measure} {self.nmse:.1e}"


def named(cls: DivergenceClass, names: tuple[str, str]) -> DivergenceClass:
    """``cls`` with a summary that calls a side that is wrong by what ``names`` have for A and B."""
    for side, name in zip(_SIDES, names, strict=True):
        if cls.summary.startswith(f"{side} "):
            return replace(cls, summary=name + cls.summary[len(side) :])
    return cls


def severity(cls: DivergenceClass) -> int:
    """A rank among classes; one that is not known here counts as the most severe."""
    return _SEVERITY.get(cls.name, len(LOOKS))


def divergence_of(colouring: Colouring, layer: int | None, stage: str) -> Divergence:
    """The divergence of one stage; UNMEASURED where the colouring has none. A class that is not known here looks like it."""
    name, nmse = colouring.get((layer, stage), (UNMEASURED.name, None))
    known = CLASS_BY_NAME.get(name)
    cls = known or replace(UNMEASURED, name=name, summary="")
    is_index = stage in STAGE_BY_NAME and STAGE_BY_NAME[stage].kind is StageKind.INDEX
    return Divergence(cls, nmse, layer, measure="other ids" if is_index else cls.measure)


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
