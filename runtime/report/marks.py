"""How a row looks at a glance: a glyph for its class or verdict, and a level for its error, never a colour alone."""

from __future__ import annotations

import math

from aprgraph.graph.export.divergence import CLASS_BY_NAME, CLASSES
from aprgraph.runtime.blame import Blame, Verdict
from aprgraph.runtime.blame.local import VERDICT_MEANINGS
from aprgraph.runtime.diff.classify import Class
from aprgraph.runtime.diff.report import DiffRow

#: By class.
CLASS_GLYPHS: dict[Class, str] = {
    Class.IDENTICAL: "=",
    Class.NOISE: "·",
    Class.PROPAGATED: "▾",
    Class.ACCUMULATED: "+",
    Class.INTRODUCED: "◆",
    Class.NAN: "N",
    Class.SHAPE: "S",
    Class.UNMEASURED: "?",
}
#: By verdict; those that are not here say less than the class.
VERDICT_GLYPHS: dict[Verdict, str] = {
    Verdict.A_WRONG: "A",
    Verdict.B_WRONG: "B",
    Verdict.BOTH_WRONG: "AB",
    Verdict.RECORDING: "~",
    Verdict.OTHER_GRAPH: "≠",
    Verdict.FOLLOWS: "▾",
    Verdict.ADDS_UP: "+",
}
#: Levels of error by the decades that it lies above the limit; a level's number is the number of bounds below it. 0 is no error.
_BOUNDS = (-3.0, -1.0, 0.0, 2.0, 4.0, 6.0, 8.0)
LEVEL_TEXTS = (
    "no error", "below 0.001 of the limit", "below 0.1 of it", "within the limit",
    "up to 100 times the limit", "up to 10⁴ times", "up to 10⁶ times", "up to 10⁸ times", "more",
)  # fmt: skip
#: Classes whose colour says what they are, for there is no number that a level could show.
_WITHOUT_LEVEL = frozenset({Class.NAN, Class.SHAPE, Class.UNMEASURED})


def glyph(row: DiffRow, blame: Blame | None) -> tuple[str, str]:
    """One or two characters, and what they stand for. A verdict that says more than the class goes before it."""
    verdict = blame.verdicts.get(row.key) if blame is not None else None
    if verdict is not None and verdict in VERDICT_GLYPHS:
        return VERDICT_GLYPHS[verdict], f"{verdict.value}: {VERDICT_MEANINGS[verdict]}"
    name = row.classification
    return CLASS_GLYPHS[name], f"{name.value}: {CLASS_BY_NAME[name.value].summary}"


def level(row: DiffRow) -> str:
    """The CSS class of a row's cell: ``level-0`` to ``level-8``, or ``is-nan`` and its like where no number tells."""
    if row.classification in _WITHOUT_LEVEL or row.error is None:
        return f"is-{row.classification.value.lower()}"
    if row.error == 0:
        return "level-0"
    if row.limit == 0:
        return f"level-{len(_BOUNDS) + 1}"
    decades = math.log10(row.error / row.limit)
    return f"level-{1 + sum(decades > bound for bound in _BOUNDS)}"


def class_rules() -> str:
    """The colours of the classes as CSS custom properties, from the table that the graph's pictures use."""
    return "".join(f".is-{cls.name.lower()}{{--bar:{cls.bar};--tint:light-dark({cls.light},{cls.dark})}}\n" for cls in CLASSES)
