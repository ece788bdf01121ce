"""How a row looks at a glance: a glyph for its verdict or class, and a level for its error, never a colour alone.

With the model at hand all of it goes by blame: the glyph is the verdict's, and the level that of the local error, so that a tensor
that merely follows is as quiet as one that is right. Without, it goes by class and by how far the two are apart.
"""

from __future__ import annotations

import math

from aprgraph.graph.export.divergence import CLASS_BY_NAME, LOOKS, named
from aprgraph.graph.export.svg_style import class_name
from aprgraph.runtime.blame import Verdict
from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.diff.classify import DIVERGED, Class
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.report import DiffRow

GLYPHS: dict[Class | Verdict, str] = {
    Class.IDENTICAL: "=",
    Class.NOISE: "·",
    Class.PROPAGATED: "▾",
    Class.ACCUMULATED: "+",
    Class.INTRODUCED: "◆",
    Class.NAN: "N",
    Class.SHAPE: "S",
    Class.OTHER_FORM: "~",
    Class.UNMEASURED: "?",
    Verdict.A_WRONG: "A",
    Verdict.B_WRONG: "B",
    Verdict.BOTH_WRONG: "AB",
    Verdict.RECORDING: "~",
    Verdict.OTHER_GRAPH: "≠",
    Verdict.OTHER_WEIGHTS: "w",
    Verdict.FOLLOWS: "▾",
    Verdict.ADDS_UP: "+",
    Verdict.RIGHT: "·",
    Verdict.UNKNOWN: "?",
}
#: Levels of error by the decades that it lies above the limit; a level's number is the number of bounds below it. 0 is no error.
_BOUNDS = (-3.0, -1.0, 0.0, 2.0, 4.0, 6.0, 8.0)
LEVEL_TEXTS = (
    "no error", "below 0.001 of the limit", "below 0.1 of it", "within the limit",
    "up to 100 times the limit", "up to 10⁴ times", "up to 10⁶ times", "up to 10⁸ times", "more",
)  # fmt: skip
#: The last level within a limit, and the first beyond it.
_WITHIN, _BEYOND = 3, 4
#: What looks by its word, for there is no number that a level could show, or none that says what it is.
_WITHOUT_LEVEL = frozenset(
    {
        Class.NAN,
        Class.SHAPE,
        Class.UNMEASURED,
        Verdict.UNKNOWN,
        Verdict.ADDS_UP,
        Verdict.RECORDING,
        Verdict.OTHER_GRAPH,
        Verdict.OTHER_WEIGHTS,
    }
)


def finding(report: Comparison, row: DiffRow) -> Class | Verdict:
    """The verdict on a row; without blame, its class."""
    return row.classification if report.blame is None else report.blame.verdicts[row.key]


def glyph(report: Comparison, row: DiffRow) -> tuple[str, str]:
    """One or two characters, and what they stand for."""
    found = finding(report, row)
    return GLYPHS[found], f"{found.value}: {named(CLASS_BY_NAME[found.value], report.names.both).summary}"


def is_guilty(report: Comparison, row: DiffRow) -> bool:
    """Whether a side is wrong at the row, by the model at hand."""
    return report.blame is not None and report.blame.verdicts[row.key].is_wrong


def judged_error(report: Comparison, row: DiffRow) -> tuple[float | None, float]:
    """The error that a row is judged by, and its limit: with blame the local one of the side that is further off."""
    if report.blame is None:
        return row.error, row.limit
    local = report.blame.local_of(row.key)
    if local is None or (isinstance(local.metrics, TensorMetrics) and local.metrics.mismatched_nonfinite):
        return None, row.limit
    return local.error, local.limit


def level(report: Comparison, row: DiffRow) -> str:
    """The CSS class of a row's cell: ``level-0`` to ``level-8``, or ``is-nan`` and its like where no number tells."""
    found = finding(report, row)
    error, limit = judged_error(report, row)
    if found in _WITHOUT_LEVEL or error is None:
        return class_name(CLASS_BY_NAME[found.value])
    # A number within its limit can break another rule, and one beyond it be explained by rounding: the word has been said.
    beyond = found.is_wrong if isinstance(found, Verdict) else found in DIVERGED
    number = _level(error, limit)
    return f"level-{max(number, _BEYOND) if beyond else min(number, _WITHIN)}"


def _level(error: float, limit: float) -> int:
    if error == 0:
        return 0
    if limit == 0:
        return len(_BOUNDS) + 1
    return 1 + sum(math.log10(error / limit) > bound for bound in _BOUNDS)


def class_rules() -> str:
    """The colours of classes and verdicts as CSS custom properties, from the table that the graph's pictures use."""
    return "".join(
        f".{class_name(look)}{{--bar:light-dark({look.bar},{look.bar_dark});--tint:light-dark({look.light},{look.dark})}}\n"
        for look in LOOKS
    )
