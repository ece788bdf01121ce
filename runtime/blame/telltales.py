"""What an error itself gives away: the weight, epsilon, base or pairing under which a wrong stage would be right.

One function an op, each of which solves for one thing from the recorded inputs and outputs and keeps quiet unless that explains the
output to rounding. More unknowns than equations explain everything, so each asks for at least two positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.ir import Attr, Node
from aprgraph.graph.ops import OPS, Array
from aprgraph.graph.ops.rope import PAIRINGS
from aprgraph.graph.words import listed, plural

#: What is left of the error where something explains it.
_LEFT = 1e-3
#: Numbers that agree to this, relative to their size, are said to be the same.
_SAME = 1e-3
_NAMED = 4


@dataclass(frozen=True)
class Evidence:
    """A wrong stage: its ``node``, the values of its ``operands`` and what was ``recorded``, all in float64."""

    node: Node
    operands: Sequence[Array]
    recorded: Array

    def explains(self, value: Array) -> bool:
        """Whether ``value`` is what was recorded, but for a thousandth of the error at most."""
        due = self.reference(self.operands)
        energy = float(np.square(self.recorded - due).sum())
        return bool(np.isfinite(value).all()) and float(np.square(self.recorded - value).sum()) <= _LEFT**2 * energy

    def reference(self, operands: Sequence[Array], **attrs: Attr) -> Array:
        """The stage's value from other operands or with other attributes."""
        function = OPS[self.node.op].reference
        assert function is not None
        with np.errstate(all="ignore"):
            return function(operands, {**self.node.attrs, **attrs})


_Telltale = Callable[[Evidence], Iterator[str]]


def find_telltale(evidence: Evidence) -> str | None:
    """What the recorded values give away, in words that follow "it is" or stand alone; None if nothing that is known here."""
    if not np.isfinite(evidence.recorded).all():
        return None
    for find in (_general, *_BY_OP.get(evidence.node.op, ())):
        for words in find(evidence):
            return words
    return None


def _general(evidence: Evidence) -> Iterator[str]:
    recorded = evidence.recorded
    if not recorded.any():
        yield "what was recorded is all zeros"
        return
    first = evidence.operands[0]
    if first.shape == recorded.shape and first.dtype.kind == "f" and np.array_equal(first.astype(np.float32), recorded.astype(np.float32)):
        yield "what was recorded is the stage's unchanged input"
    rows = recorded.reshape(len(recorded), -1)
    empty = [index for index, row in enumerate(rows) if not row.any()]
    if 0 < len(empty) < len(rows) and evidence.reference(evidence.operands).reshape(rows.shape)[empty].any():
        yield f"what was recorded is zero at {_listed('position', empty)}"


def _norm_weight(evidence: Evidence) -> Iterator[str]:
    """A norm's output over its normalised input is its weight."""
    x, *weights = evidence.operands
    weight = _weight_of(evidence)
    rows = evidence.recorded.reshape(-1, weight.size)
    if len(rows) < 2:
        return
    normed = evidence.reference([x, *map(np.ones_like, weights)]).reshape(rows.shape)
    weight = weight.reshape(-1)  # of each group a row
    with np.errstate(all="ignore"):
        other = (rows * normed).sum(axis=0) / np.square(normed).sum(axis=0)
    if not evidence.explains((normed * other).reshape(evidence.recorded.shape)):
        return
    if not weights:
        yield _in_place_of_none(other)
        return
    scale = max(float(np.abs(weight).max()), 1.0)
    for shift, words in ((-1.0, "1 less"), (1.0, "1 more")):
        if np.abs(other - (weight + shift)).max() < _SAME * scale:
            yield f"it fits a norm whose weight is {words} than the file's in every channel"
            return
    if np.abs(other - other.mean()).max() < _SAME * abs(other.mean()):
        yield f"it fits a norm whose weight is {other.mean():.4g} in every channel"
        return
    energy = float(weight @ weight)
    factor = float(other @ weight) / energy if energy else math.nan
    if np.abs(other - factor * weight).max() < _SAME * abs(factor) * scale:
        yield f"it fits a norm whose weight is {factor:.4g} times the file's"
        return
    changed = np.flatnonzero(np.abs(other - weight) > _SAME * scale)
    if changed.size <= weight.size // 8:
        at = int(changed[0])
        yield f"it fits a norm whose weight differs from the file's at {_listed('channel', changed)} ({other[at]:.4g} for {weight[at]:.4g})"
        return
    ranges = [f"from {one.min():.4g} to {one.max():.4g}" for one in (other, weight)]
    yield f"it fits a norm with another weight ({ranges[0]}; the file's is {ranges[1]})"


def _in_place_of_none(weight: Array) -> str:
    """What a norm fits that has no weights, where ``weight`` would make it so."""
    mean = float(weight.mean())
    if np.abs(weight - mean).max() >= _SAME * abs(mean):
        return f"it fits a norm with a weight (from {weight.min():.4g} to {weight.max():.4g}), where the model has none"
    if abs(mean * weight.size**0.5 - 1) < _SAME:
        return "it fits a norm by the root of the sum of squares in place of that of their mean"
    return f"it fits the norm times {mean:.4g}"


def _weight_of(evidence: Evidence) -> Array:
    """The weight of a norm; of one without, as many times 1."""
    x, *weights = evidence.operands
    return weights[0] if weights else np.ones(x.shape[-1] // evidence.node.attr_int("groups"))


def _norm_eps(evidence: Evidence) -> Iterator[str]:
    x, weight = evidence.operands[0], _weight_of(evidence)
    size = weight.shape[-1]
    rows, inputs = evidence.recorded.reshape(-1, size), x.reshape(-1, size)
    with np.errstate(all="ignore"):
        scaled = (x.reshape(-1, *weight.shape) * weight).reshape(-1, size)
        ratio = (rows * scaled).sum(axis=1) / np.square(scaled).sum(axis=1)
        eps = float(np.median(1.0 / np.square(ratio) - np.square(inputs).mean(axis=1)))
    if eps >= 0 and math.isfinite(eps) and len(rows) > 1 and evidence.explains(evidence.reference(evidence.operands, eps=eps)):
        yield f"it fits an epsilon of {eps:.3g} in place of {evidence.node.attr_float('eps'):.3g}"


def _norm_mean(evidence: Evidence) -> Iterator[str]:
    """The mean of each row was left in where a LayerNorm takes it off, or taken off where an RMSNorm leaves it."""
    x, *weights = evidence.operands
    has_mean = evidence.node.op == "rms_norm"
    grouped = x.reshape(len(x), evidence.node.attr_int("groups"), -1)
    normed = grouped - grouped.mean(axis=-1, keepdims=True) if has_mean else grouped
    value = normed / np.sqrt(np.square(normed).mean(axis=-1, keepdims=True) + evidence.node.attr_float("eps"))
    for weight in weights[:1]:
        value = value * weight
    for bias in weights[1:]:
        value = value + bias
    if len(x) > 1 and evidence.explains(value.reshape(x.shape)):
        yield "it fits a LayerNorm, which takes the mean off" if has_mean else "it fits a norm that leaves the mean in"


def _rope_pairing(evidence: Evidence) -> Iterator[str]:
    for pairing in PAIRINGS:
        if pairing != evidence.node.attrs["pairing"] and evidence.explains(evidence.reference(evidence.operands, pairing=pairing)):
            words = {"interleaved": "neighbours (2i, 2i + 1)", "halves": "halves (i, i + D/2)"}
            yield f"it fits pairs of {words[pairing]} in place of {words[str(evidence.node.attrs['pairing'])]}"


def _rope_angles(evidence: Evidence) -> Iterator[str]:
    """The angle of each pair at each position, from what went in and what came out; then the base, the stretch or the shift behind them."""
    x, table = evidence.operands
    found = _turned(evidence)
    n, half = len(table), table.shape[1] // 2
    if found is None or n < 2 or half < 3:
        return
    angles, magnitude = found
    due = np.arctan2(table[:, half:], table[:, :half])

    def fits(other: Array) -> bool:
        values = magnitude * np.concatenate([np.cos(other), np.sin(other)], axis=1)
        return evidence.explains(evidence.reference([x, values]))

    own = float(np.hypot(table[0, :half], table[0, half:]).mean())
    if fits(due):
        yield f"it fits cos and sin times {magnitude:.4g} in place of {own:.4g}"
        return
    # Pair i turns by f_i from one position to the next, and by as many f_i at the first as that position is.
    step = np.angle(np.exp(1j * (angles[1:] - angles[:-1])).mean(axis=0))
    if (step <= 0).any():
        return
    positions = np.arange(n)[:, None] + round(float(angles[0, -1] / step[-1]))
    shift = "" if positions[0, 0] == 0 else f" and positions that begin at {positions[0, 0]}"
    for words, frequencies in _frequencies(step, np.angle(np.exp(1j * (due[1:] - due[:-1])).mean(axis=0))):
        if fits(positions * frequencies):
            yield f"it fits {words}{shift}"
            return


def _frequencies(found: Array, due: Array) -> Iterator[tuple[str, Array]]:
    """What the frequencies [pairs] that were found may be, in words, the simplest first; ``due`` are the file's."""
    half = len(found)
    exponents = np.arange(half) / half
    yield "the file's frequencies", due
    # A small frequency is known less well, by as much as it is smaller.
    slope, offset = np.polyfit(exponents, np.log(found), 1, w=found)
    stretches = [1.0, *(float(f"{math.exp(offset):.{digits}g}") for digits in (2, 4))]
    for stretch in dict.fromkeys(stretches):
        for base in dict.fromkeys(float(f"{math.exp(-slope):.{digits}g}") for digits in (1, 2, 3, 6)):
            words = f"a base of {base:g}" + (f" and frequencies times {stretch:g}" if stretch != 1 else "")
            yield words, stretch * base**-exponents
    ratio = found / due
    changed = np.flatnonzero(np.abs(ratio - 1) > 10 * _SAME)
    if changed.size:
        low, high = float(ratio[changed].min()), float(ratio[changed].max())
        times = f"{low:.4g}" if high - low < 10 * _SAME else f"{low:.4g} to {high:.4g}"
        yield f"frequencies {times} times the file's at {_listed('pair', changed)}", found


def _turned(evidence: Evidence) -> tuple[Array, float] | None:
    """By which angle each pair of dimensions was turned at each position [n, dims / 2], and what both were multiplied by."""
    x, table = evidence.operands
    half = table.shape[1] // 2
    node = evidence.node
    heads, size, start = node.attr_int("heads"), node.attr_int("head_size"), node.attr_int("start")
    before = x[:, start : start + heads * size].reshape(len(x), heads, size)
    after = evidence.recorded.reshape(len(x), heads, size)
    neighbours = node.attrs["pairing"] == "interleaved"
    first, second = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if neighbours else (slice(0, half), slice(half, 2 * half))
    a, b = (part[..., first] + 1j * part[..., second] for part in (before, after))
    with np.errstate(all="ignore"):
        turn = (b * a.conj()).sum(axis=1) / np.square(np.abs(a)).sum(axis=1)
    if not np.isfinite(turn).all():
        return None
    magnitude = float(np.median(np.abs(turn)))
    return (np.angle(turn), magnitude) if magnitude > 0 else None


_BY_OP: Mapping[str, Sequence[_Telltale]] = {
    "rms_norm": (_norm_eps, _norm_mean, _norm_weight),
    "layer_norm": (_norm_mean,),
    "rope": (_rope_pairing, _rope_angles),
}


def _listed(noun: str, numbers: Sequence[int] | Array) -> str:
    return f"{plural(len(numbers), noun)} {listed((int(number) for number in numbers), _NAMED)}"
