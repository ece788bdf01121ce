"""The bars that show how far off a tensor is along its axes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

import aprgraph
from aprgraph.runtime.explain import AxisErrors
from aprgraph.runtime.report import render_page
from aprgraph.runtime.report.axis_chart import draw_axis
from tests.support.blame import spoil, traced


def bars(errors: tuple[float, ...]) -> list[tuple[str, float, float]]:
    """Class, place and height of each bar."""
    drawing = ET.fromstring(draw_axis(AxisErrors("position", errors), "a <label>"))
    assert (drawing.get("role"), drawing.get("aria-label")) == ("img", "a <label>")
    return [(str(one.get("class")), float(one.get("x", 0)), float(one.get("height", 0))) for one in drawing.iter("rect")]


def test_a_bar_for_each_index_that_is_off() -> None:
    low, high = bars((0.0, 1e-14, 0.0, 1e-2))
    assert (low[0], high[0]) == ("bar", "bar wrong")
    assert 0 < low[2] < high[2]
    assert low[1] < high[1]


def test_what_is_not_finite_reaches_to_the_top() -> None:
    found = bars((math.inf, 1e-3, 1e-4))
    assert found[0][2] >= found[1][2] > found[2][2] > 0
    assert [one[0] for one in bars((math.inf, math.inf))] == ["bar wrong", "bar wrong"]


def test_many_indices_share_bars_and_the_largest_counts() -> None:
    errors = [1e-15] * 1000
    errors[777] = 1e-3
    found = bars(tuple(errors))
    assert len(found) <= 64
    wrong = [one for one in found if one[0] == "bar wrong"]
    assert len(wrong) == 1
    assert wrong[0][2] == max(one[2] for one in found)


def test_the_page_has_bars_and_their_words(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = tiny_model()
    ours, theirs = (traced(tmp_path / name, model) for name in ("ours", "theirs"))
    spoil(theirs, "q_post_rope", 1, lambda values: values + np.where(np.arange(len(values)) == 3, 1, 0)[:, None])
    report = aprgraph.diff(ours, theirs, model=model)
    page = render_page(report, ours, theirs)
    labels = re.findall(r'<svg class="chart bars"[^>]* aria-label="([^"]*)"', page)
    first = [f"layer 1 q_post_rope, by {axis}" for axis in ("position", "head", "element of a head")]
    assert [label.partition(":")[0] for label in labels][:3] == first
    for label in labels:
        assert f"<p>{label.partition(', ')[2]}</p>" in page
