"""Histograms as drawings: counts on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aprgraph.graph.export.escape import xml
from aprgraph.graph.words import counted
from aprgraph.runtime.report.drawing import LogScale
from aprgraph.runtime.report.histogram import Histogram
from aprgraph.runtime.report.numbers import place, signed

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520.0, 230.0, 54.0, 508.0, 14.0, 180.0
_ABOVE_NONE = 12.0


def draw_histograms(histograms: Sequence[Histogram], label: str) -> str:
    """Histograms of one set of edges over each other, as an SVG element; empty bins stand on the axis."""
    most = max(int(histogram.counts.max()) for histogram in histograms)
    # One element stands above the axis, so that it can be told from none.
    scale = LogScale(0, max(1, math.ceil(math.log10(max(most, 1)))), _BOTTOM - _ABOVE_NONE, _TOP)
    edges = histograms[0].edges
    step = (_RIGHT - _LEFT) / (len(edges) - 1)
    lines = [f'<svg class="chart histogram" viewBox="0 0 {place(_WIDTH)} {place(_HEIGHT)}" role="img" aria-label="{xml(label)}">']
    for y, text in scale.ticks(5):
        lines.append(f'<path class="grid" d="M{place(_LEFT)} {place(y)}H{place(_RIGHT)}"/>')
        lines.append(f'<text class="tick" x="{place(_LEFT - 6)}" y="{place(y + 3.5)}" text-anchor="end">{text}</text>')
    for index, histogram in enumerate(histograms):
        path = [f"M{place(_LEFT)} {place(_BOTTOM)}"]
        for bin_number, count in enumerate(histogram.counts):
            y = scale.y(float(count)) if count else _BOTTOM
            path.append(f"V{place(y)}H{place(_LEFT + (bin_number + 1) * step)}")
        lines.append(f'<path class="steps series-{index if len(histograms) > 1 else 2}" d="{"".join(path)}V{place(_BOTTOM)}"/>')
    lines.append(f'<path class="base" d="M{place(_LEFT)} {place(_BOTTOM)}H{place(_RIGHT)}"/>')
    ticks = ((_LEFT, edges[0], "start"), ((_LEFT + _RIGHT) / 2, (edges[0] + edges[-1]) / 2, "middle"), (_RIGHT, edges[-1], "end"))
    for x, value, anchor in ticks:
        lines.append(f'<text class="tick" x="{place(x)}" y="{place(_BOTTOM + 18)}" text-anchor="{anchor}">{signed(float(value))}</text>')
    middle = place((_LEFT + _RIGHT) / 2)
    lines.append(f'<text class="tick" x="{middle}" y="{place(_BOTTOM + 38)}" text-anchor="middle">value; elements per bin upwards</text>')
    return "".join([*lines, "</svg>"])


def describe(histogram: Histogram, name: str | None = None) -> str:
    """``A: 4,032 elements from -3.2 to 4.1, 1 NaN, 0 Inf``; ``name`` is what to call it (default: its own name)."""
    filled = histogram.counts.nonzero()[0]
    span = ""
    if filled.size:
        span = f" from {signed(float(histogram.edges[filled[0]]))} to {signed(float(histogram.edges[filled[-1] + 1]))}"
    nan = "NaN" if histogram.name in ("A", "B") else "without a number on one side"
    return f"{name or histogram.name}: {counted(histogram.total, 'element')}{span}, {histogram.nan:,} {nan}, {histogram.inf:,} Inf"
