"""How far off a tensor is along one of its axes, as small bars on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aprgraph.graph.export.escape import xml
from aprgraph.runtime.blame.local_errors import LocalError
from aprgraph.runtime.explain import AxisErrors
from aprgraph.runtime.report.drawing import LogScale
from aprgraph.runtime.report.numbers import place

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 260.0, 92.0, 44.0, 256.0, 8.0, 70.0
#: More indices share bars, of which each shows the largest error.
_MOST_BARS = 64
#: Errors that far below the largest one are not told apart: these indices are right.
_DECADES = 12
#: How high a bar is at least that stands for an error.
_LEAST = 2.0


@dataclass(frozen=True)
class AxisCharts:
    """A wrong tensor, and for each of its axes what is to be read and what is to be seen."""

    label: str
    axes: tuple[tuple[str, str], ...]


def axis_charts(locals_: Sequence[LocalError]) -> list[AxisCharts]:
    """The bars of each of ``locals_``, with their words."""
    return [
        AxisCharts(local.label, tuple((axis.words, draw_axis(axis, f"{local.label}, {axis.words}")) for axis in local.by_axis))
        for local in locals_
    ]


def draw_axis(axis: AxisErrors, label: str) -> str:
    """One bar for each index, or for several neighbours, as an SVG element called ``label``; what is not finite reaches to the top."""
    groups = _grouped(axis.errors)
    finite = [error for error in groups if 0 < error < math.inf]
    scale = LogScale.over([error for error in finite if error > max(finite) * 10.0**-_DECADES], _BOTTOM, _TOP)
    wrong = set(axis.wrong)
    step = (_RIGHT - _LEFT) / len(groups)
    of_each = -(-len(axis.errors) // _MOST_BARS)
    lines = [f'<svg class="chart bars" viewBox="0 0 {place(_WIDTH)} {place(_HEIGHT)}" role="img" aria-label="{xml(label)}">']
    for y, text in (scale.ticks(2) if finite else [])[:3]:
        lines.append(f'<path class="grid" d="M{place(_LEFT)} {place(y)}H{place(_RIGHT)}"/>')
        lines.append(f'<text class="tick" x="{place(_LEFT - 5)}" y="{place(y + 3.5)}" text-anchor="end">{text}</text>')
    for number, error in enumerate(groups):
        if not error:
            continue
        top = _TOP if error == math.inf else min(scale.y(error), _BOTTOM - _LEAST)
        indices = range(number * of_each, min((number + 1) * of_each, len(axis.errors)))
        name = "bar wrong" if wrong.intersection(indices) else "bar"
        x, width = _LEFT + number * step, max(step * 0.8, 0.8)
        lines.append(f'<rect class="{name}" x="{place(x)}" y="{place(top)}" width="{place(width)}" height="{place(_BOTTOM - top)}"/>')
    lines.append(f'<path class="base" d="M{place(_LEFT)} {place(_BOTTOM)}H{place(_RIGHT)}"/>')
    for x, text, anchor in ((_LEFT, "0", "start"), (_RIGHT, str(len(axis.errors) - 1), "end")):
        lines.append(f'<text class="tick" x="{place(x)}" y="{place(_BOTTOM + 14)}" text-anchor="{anchor}">{text}</text>')
    middle = place((_LEFT + _RIGHT) / 2)
    lines.append(f'<text class="tick" x="{middle}" y="{place(_BOTTOM + 14)}" text-anchor="middle">{xml(axis.name)}</text>')
    return "".join([*lines, "</svg>"])


def _grouped(errors: Sequence[float]) -> list[float]:
    """The errors, or the largest of each group of neighbours where there are many."""
    size = -(-len(errors) // _MOST_BARS)
    return [max(errors[start : start + size]) for start in range(0, len(errors), size)]
