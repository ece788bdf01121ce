"""What is worse stands out more from the page, on a light one and on a dark one, by the contrast of WCAG 2.2."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import pytest

from aprgraph.graph.export.divergence import CLASSES, VERDICTS, DivergenceClass
from aprgraph.graph.export.svg_style import style_sheet
from aprgraph.runtime.report.marks import LEVEL_TEXTS

CSS = files("aprgraph.runtime.report").joinpath("page.css").read_text(encoding="utf-8")
LIGHT, DARK = 0, 1
#: Text in normal size needs this much, what is no text 3 at most.
READABLE = 4.5


def contrast(one: str, other: str) -> float:
    """The contrast of two colours ``#rrggbb``, from 1 to 21."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """The relative luminance, from 0 (black) to 1."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def pair(text: str) -> tuple[str, str]:
    """The two colours of ``light-dark(...)``, or the one twice; of ``var(--text)`` what the page has."""
    text = re.sub(r"var\((--\w+)\)", lambda match: variable(match[1]), text)
    found = re.findall(r"#[0-9a-f]{6}", text)
    return (found[0], found[-1])


def variable(name: str) -> str:
    """The value of one of the page's custom properties."""
    match = re.search(rf"{name}: ([^;]+);", CSS)
    assert match is not None, name
    return match[1]


def rule(selector: str, name: str) -> str:
    """One property of a rule."""
    match = re.search(rf"^{re.escape(selector)} {{[^}}]*\b{name}: ([^;]+);", CSS, re.MULTILINE)
    assert match is not None, selector
    return match[1]


@pytest.mark.parametrize("mode", [LIGHT, DARK])
def test_levels_of_error_stand_out_the_more_the_worse_they_are(mode: int) -> None:
    page = pair(variable("--page"))[mode]
    levels = [pair(rule(f".level-{number}", "background"))[mode] for number in range(len(LEVEL_TEXTS))]
    found = [contrast(level, page) for level in levels]
    assert all(worse > better * 1.04 for better, worse in itertools.pairwise(found)), found
    for number, level in enumerate(levels):
        assert contrast(pair(rule(f".level-{number}", "color"))[mode], level) >= READABLE


@pytest.mark.parametrize("mode", [LIGHT, DARK])
def test_a_fault_stands_out_more_than_what_follows_or_is_right(mode: int) -> None:
    page = re.findall(r"\.page { fill: (#[0-9a-f]{6}); }", style_sheet())[mode]
    verdicts = {look.name: look for look in VERDICTS}

    def seen(look: DivergenceClass) -> tuple[float, float]:
        fill, bar = (look.light, look.bar) if mode == LIGHT else (look.dark, look.bar_dark)
        return contrast(fill, page), contrast(bar, page)

    quiet = [seen(verdicts[name]) for name in ("RIGHT", "FOLLOWS", "UNKNOWN")]
    for name in ("A WRONG", "B WRONG", "BOTH WRONG"):
        assert all(loud > low for low_pair in quiet for low, loud in zip(low_pair, seen(verdicts[name]), strict=True)), name
    # Of the classes, those that say that two tensors differ, against those that say they do not.
    alike, differ = [[seen(look) for look in CLASSES if (look.name in ("IDENTICAL", "NOISE")) is agrees] for agrees in (True, False)]
    named = [seen(look) for look in CLASSES if look.name in ("PROPAGATED", "ACCUMULATED", "INTRODUCED", "SHAPE", "NAN")]
    assert len(alike) + len(differ) == len(CLASSES)
    assert all(loud > low for low_pair in alike for loud_pair in named for low, loud in zip(low_pair, loud_pair, strict=True))


@pytest.mark.parametrize("look", [*CLASSES, *VERDICTS], ids=lambda look: look.name)
def test_text_in_a_box_of_the_graph_is_readable(look: DivergenceClass) -> None:
    text = [re.findall(rf"\.{name} {{ fill: (#[0-9a-f]{{6}}); }}", style_sheet()) for name in ("name", "detail", "format")]
    for mode, fill in ((LIGHT, look.light), (DARK, look.dark)):
        assert all(contrast(colours[mode], fill) >= READABLE for colours in text), (look.name, mode)
