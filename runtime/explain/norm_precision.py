"""Norms that are computed in a half precision: squares that are rounded, or beyond its range, where float32 should hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import plural, runs
from aprgraph.runtime.explain.alternative import Alternative, explains
from aprgraph.runtime.explain.half_precision import FORMATS
from aprgraph.runtime.explain.site import Site

_Rounded = Callable[[Array], Array]
#: The roundings of a norm, in the order in which it is computed: which of them a way of computing has.
_STEPS = ("input", "centred", "squares", "sum", "mean", "root", "normed", "weighted")
_ALL = frozenset(_STEPS) - {"sum"}
_WAYS: tuple[tuple[str, frozenset[str]], ...] = (
    ("the norm is computed in {}, each of its steps", _ALL),
    ("the squares of the norm, and their mean, are rounded to {}", frozenset({"squares", "mean"})),
    ("the squares of the norm are rounded to {}", frozenset({"squares"})),
    ("the sum, or the mean, of the norm's squares is rounded to {}", frozenset({"sum"})),
    ("the sum, or the mean, of the norm's squares is rounded to {}", frozenset({"mean"})),
    ("the norm is rounded to {} before its weight, and behind it", frozenset({"normed", "weighted"})),
    ("the norm is rounded to {} before its weight", frozenset({"normed"})),
    ("the norm reads what was rounded to {}", frozenset({"input"})),
)
_NAMED = 3


@explains("rms_norm", "layer_norm")
def in_half_precision(site: Site) -> Iterator[Alternative]:
    """Some or all of its steps are rounded to a half precision, or overflow it, where float32 should hold them."""
    if site.recorded is None or not np.isfinite(site.recorded).all():
        return
    seen: set[bytes] = set()
    for name, rounded in FORMATS:
        seen.add(rounded(site.due).tobytes())  # a right norm that was rounded says so itself
        for words, steps in _WAYS:
            compute = partial(_norm, site, rounded, steps)
            value = compute(site.operands)
            if value.tobytes() not in seen and np.isfinite(value).all() and site.fits(value):
                seen.add(value.tobytes())
                beyond = np.flatnonzero(~value.any(axis=1) & site.due.any(axis=1))
                yield Alternative("norm-half-precision", words.format(name) + _overflow(beyond), compute)


def _overflow(positions: Array) -> str:
    if not positions.size:
        return ""
    return f": beyond its range at {plural(len(positions), 'position')} {runs(positions, _NAMED)}, which the norm leaves at 0"


def _norm(site: Site, rounded: _Rounded, steps: frozenset[str], operands: Sequence[Array]) -> Array:
    """The norm with ``rounded`` after each of ``steps``."""

    def kept(step: str, value: Array) -> Array:
        return rounded(value) if step in steps else value

    x, *weights = operands
    groups = site.node.attr_int("groups", 1)
    with np.errstate(all="ignore"):
        value = kept("input", x).reshape(len(x), groups, -1)
        if site.node.op == "layer_norm":
            value = kept("centred", value - kept("mean", value.mean(axis=-1, keepdims=True)))
        total = kept("sum", kept("squares", np.square(value)).sum(axis=-1, keepdims=True))
        mean = kept("root", kept("mean", total / value.shape[-1]) + site.node.attr_float("eps"))
        result: Array = kept("normed", value * kept("root", 1 / np.sqrt(mean))).reshape(x.shape)
        for index, weight in enumerate(weights):
            flat = np.asarray(weight).reshape(-1)
            own = kept("weighted", np.tile(flat, x.shape[1] // flat.size))
            result = kept("weighted", result * own if index == 0 else result + own)
    return result
