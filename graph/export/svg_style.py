"""The looks of the SVG: a style sheet for light and dark pages.

Plain rules with a media query, no custom properties: renderers that are not browsers (librsvg, Inkscape) know no var(),
and draw the light page.
"""

from __future__ import annotations

from aprgraph.graph.export.divergence import CLASS_BY_NAME, LOOKS, UNMEASURED, DivergenceClass
from aprgraph.graph.stages import StageKind

MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
SANS = "-apple-system, 'Segoe UI', Helvetica, Arial, 'Liberation Sans', sans-serif"

_LIGHT = """
.page { fill: #ffffff; }
.cluster { fill: #f6f8fb; stroke: #cbd3de; }
.behind { fill: #e9edf3; stroke: #cbd3de; }
.box { fill: #ffffff; stroke: #aeb9c7; }
.plain { fill: #fafbfc; stroke: #cbd3de; }
.elided { fill: none; stroke: #8a94a3; }
.line { stroke: #7a8798; }
.head { fill: #7a8798; }
.name { fill: #17202c; }
.detail { fill: #434d59; }
.format { fill: #0a4c8f; }
.tap { fill: #17202c; }
.tap-text { fill: #ffffff; }
.halo { stroke: #a83f00; }
.badge { fill: #a83f00; }
.badge-text { fill: #ffffff; }
"""

_DARK = """
.page { fill: #0f141a; }
.cluster { fill: #161c24; stroke: #333d4a; }
.behind { fill: #1d242e; stroke: #333d4a; }
.box { fill: #1c232c; stroke: #4a5666; }
.plain { fill: #171d25; stroke: #3a4452; }
.elided { fill: none; stroke: #7d8896; }
.line { stroke: #8592a3; }
.head { fill: #8592a3; }
.name { fill: #eef2f7; }
.detail { fill: #bcc6d2; }
.format { fill: #8ec5ff; }
.tap { fill: #eef2f7; }
.tap-text { fill: #0f141a; }
.halo { stroke: #ff9d5c; }
.badge { fill: #ff9d5c; }
.badge-text { fill: #0f141a; }
"""

_SHARED = f"""
text {{ font-family: {MONOSPACE}; font-size: 11px; }}
.sans {{ font-family: {SANS}; }}
.heading {{ font-size: 18px; font-weight: 600; }}
.subtitle {{ font-size: 12px; }}
.title {{ font-size: 13px; font-weight: 600; }}
.name {{ font-weight: 600; }}
.stage {{ font-size: 13px; }}
.format, .class {{ font-weight: 600; }}
.line {{ fill: none; stroke-width: 1.4; stroke-linecap: round; stroke-linejoin: round; }}
.elided {{ stroke-dasharray: 5 4; }}
.tap-text {{ font-size: 9px; font-weight: 600; }}
.halo {{ fill: none; stroke-width: 2.4; stroke-dasharray: 7 4; }}
.glow {{ fill-opacity: 0.38; }}
.badge-text {{ font-size: 10px; font-weight: 600; }}
"""

#: A strip at the left of a box shows what kind of arithmetic makes it; the op beside it says the same in words.
_KINDS: dict[StageKind, str] = {
    StageKind.LOOKUP: "#6b7f95",
    StageKind.MATMUL: "#2f7ed8",
    StageKind.NORM: "#2a9d8f",
    StageKind.ELEMENTWISE: "#94a1b2",
    StageKind.ROPE: "#8b6fd0",
    StageKind.SOFTMAX: "#b66bb0",
    StageKind.INDEX: "#6b7f95",
}


def class_name(cls: DivergenceClass) -> str:
    """The CSS class of a divergence class or verdict; one that the tables do not know looks like UNMEASURED."""
    return f"is-{CLASS_BY_NAME.get(cls.name, UNMEASURED).name.lower().replace(' ', '-')}"


def kind_class(kind: StageKind) -> str:
    """The CSS class of a kind of stage."""
    return f"kind-{kind.value}"


def style_sheet() -> str:
    """The whole style sheet."""
    kinds = "".join(f".{kind_class(kind)} {{ fill: {colour}; }}\n" for kind, colour in _KINDS.items())
    # The class sets the fill of a box, and the strip's and border's strong colour.
    light = "".join(f".{class_name(cls)} {{ fill: {cls.light}; stroke: {cls.bar}; }}\n" for cls in LOOKS)
    dark = "".join(f".{class_name(cls)} {{ fill: {cls.dark}; stroke: {cls.bar_dark}; }}\n" for cls in LOOKS)
    strips = "".join(f".strip-{class_name(cls)} {{ fill: {cls.bar}; }}\n" for cls in LOOKS)
    dark_strips = "".join(f".strip-{class_name(cls)} {{ fill: {cls.bar_dark}; }}\n" for cls in LOOKS)
    unmeasured = f".{class_name(UNMEASURED)}, .is-unknown {{ stroke-dasharray: 3 3; }}\n"
    return f"{_SHARED}{kinds}{_LIGHT}{light}{strips}{unmeasured}@media (prefers-color-scheme: dark) {{{_DARK}{dark}{dark_strips}}}\n"
