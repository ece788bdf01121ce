"""The map of stages by layers, in few characters: of many layers a column is several, and shows what is worst of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from aprgraph.graph.export.divergence import CLASS_BY_NAME, severity
from aprgraph.graph.words import counted
from aprgraph.notebook.cell import line, text
from aprgraph.runtime.place import Place
from aprgraph.runtime.report.stage_map import lay_out

_WORDS = ("#17202c", "#eef2f7")
#: What is no finding, though it is never folded with others.
QUIET = ("UNMEASURED", "UNKNOWN")
#: Columns and lines of a map, and tooltips.
_COLUMNS, _LINES, _TITLES = 48, 48, 150


@dataclass(frozen=True)
class Mark:
    """What the map says of one tensor: ``look`` names a class or a verdict (graph/export/divergence.py), ``glyph`` stands for it."""

    look: str
    glyph: str
    title: str = ""
    is_off: bool = False


def stage_map(marks: Mapping[Place, Mark], meanings: Mapping[str, str]) -> str:
    """The map of one step, the first with something that is off, and what its glyphs mean (``meanings`` by look)."""
    if not marks:
        return ""
    steps = sorted({place.step for place in marks})
    step = next((place.step for place, mark in marks.items() if mark.is_off), steps[0])
    here = {place: mark for place, mark in marks.items() if place.step == step}
    layers, stages = lay_out(here)
    bins = _bins(layers)
    shown = _first_off(stages, here)
    head = "".join(f"<th>{_name(one)}" for one in bins)
    titles = [_TITLES]
    rows = "".join(
        f"<tr><th>{escape(stage)}" + "".join(_cell([here.get(Place(step, layer, stage)) for layer in one], titles) for one in bins)
        for stage in shown
    )
    used = dict.fromkeys((mark.look, mark.glyph) for mark in here.values())
    legend = " &emsp; ".join(f"<i{_colours(look)}>{glyph}</i>{text(meanings.get(look, look))}" for look, glyph in used)
    asides = [f"step {step} is shown, the first where something is off, of {counted(len(steps), 'step')}"] if len(steps) > 1 else []
    asides += [f"a column is up to {len(bins[0])} layers, and shows what is worst of them"] if bins and len(bins[0]) > 1 else []
    asides += [f"{counted(len(stages) - len(shown), 'more stage')} without anything that is off"] if len(shown) < len(stages) else []
    words = line("; ".join(asides)) if asides else ""
    return f'<table class="map"><thead><tr><th>{head}<tbody>{rows}</table>{words}<p>{legend}</p>'


def _bins(layers: Sequence[int | None]) -> list[list[int | None]]:
    """The columns, each the layers that it shows; the whole model's, None, stands alone."""
    numbers = [layer for layer in layers if layer is not None]
    size = -(-len(numbers) // _COLUMNS) or 1
    found: list[list[int | None]] = [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]
    return [*found, [None]] if None in layers else found


def _name(layers: Sequence[int | None]) -> str:
    return "model" if layers == [None] else str(layers[0])


def _first_off(stages: Sequence[str], marks: Mapping[Place, Mark]) -> list[str]:
    """As many stages as there is room for, in order; those with something that is off come before others."""
    off = {place.stage for place, mark in marks.items() if mark.is_off}
    chosen = set(sorted(stages, key=lambda stage: stage not in off)[:_LINES])
    return [stage for stage in stages if stage in chosen]


def _cell(marks: Sequence[Mark | None], titles: list[int]) -> str:
    there = [mark for mark in marks if mark is not None]
    if not there:
        return "<td>"
    mark = max(there, key=lambda one: (one.is_off, severity(CLASS_BY_NAME[one.look])))
    title = ""
    if mark.is_off and mark.title and titles[0]:
        titles[0] -= 1
        title = f' title="{text(mark.title)}"'
    return f"<td{_colours(mark.look)}{title}>{mark.glyph}"


def _colours(look: str) -> str:
    """The class of a cell; the rules of all classes stand in the style."""
    return f" class={_class(look)}"


def _class(look: str) -> str:
    return "is-" + look.lower().replace(" ", "-")


def map_rules() -> str:
    """The colours of all looks, for light pages and dark ones: what a side is wrong at, or diverges first, in its strong colour."""
    rules = []
    for name, look in CLASS_BY_NAME.items():
        page, page_dark, word, word_dark = (
            (look.bar, look.bar_dark, "#ffffff", "#140b02") if look.stands_apart and name not in QUIET else (look.light, look.dark, *_WORDS)
        )
        rules.append(
            f".aprgraph.aprgraph.aprgraph .{_class(name)} {{ background: light-dark({page}, {page_dark}); "
            f"color: light-dark({word}, {word_dark}); }}\n"
        )
    return "".join(rules)
