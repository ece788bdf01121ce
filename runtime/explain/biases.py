"""Mistakes of biases: left out, added twice, times a number, another one; one of several that lie side by side, or a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import joined, listed
from aprgraph.runtime.explain.alternative import LOOSE, SOLVED, Alternative, Compute, explains, goes_on, with_operand, with_value
from aprgraph.runtime.explain.site import Site

#: Numbers that agree to this, relative to the largest of them, are the same.
_SAME = 1e-3
#: Of one bias so many elements are named that are other than the file's.
_NAMED, _FEW = 3, 8


@explains("bias_add", "expert_bias_add")
def other_bias(site: Site) -> Iterator[Alternative]:
    """The biases are left out, added twice, or another layer's; some of them only."""
    biases = site.weight_names()
    name, verb = (site.label(biases[0][0]), "is") if len(biases) == 1 else ("the biases", "are")
    yield Alternative("bias-missing", f"{name} {verb} left out", goes_on(0))
    twice = with_operand(site, 0, lambda x: site.compute([x, *site.operands[1:]]))
    yield Alternative("bias-twice", f"{name} {verb} added twice", twice)
    for index, weight in biases:
        if len(biases) > 1:
            yield Alternative("bias-missing", f"{site.label(index)} is left out", with_operand(site, index, np.zeros_like))
        for other in site.weights_like(weight):
            change = with_value(site, index, site.read(other))
            if site.fits(change(site.operands)):
                yield Alternative("other-weight", f"{site.label_of(other)} is added in place of {site.label(index)}", change)
                break


@explains("bias_add")
def changed_biases(site: Site) -> Iterator[Alternative]:
    """Each of the biases counts otherwise: times a number, in part, in another order, or it is another one."""
    if site.recorded is None or len(site.due) < 2:
        return
    added = (site.recorded - site.due).mean(axis=0)
    if not np.isfinite(added).all() or not site.fits(site.due + added):
        return
    start, changes = 0, []
    for index, _ in site.weight_names():
        own = np.asarray(site.operands[index])
        more = added[start : start + own.size]
        start += own.size
        if np.abs(more).max() > _SAME * np.abs(added).max():
            changes.append(_change(index, own, own + more))
    if not changes:
        return
    # What is said of several of them is said once.
    words: dict[str, list[str]] = {}
    for one in changes:
        words.setdefault(one.how, []).append(site.label(one.index))
    if len(words) == 1 and len(changes) == len(site.weight_names()) > 1:
        said = f"the biases are {changes[0].how}"
    else:
        said = joined([f"{joined(names)} {'are' if len(names) > 1 else 'is'} {how}" for how, names in words.items()], ", and")
    yield Alternative(changes[0].name, said, _with_biases(site, changes), max(one.rank for one in changes))


@dataclass(frozen=True)
class _Change:
    """The bias of the operand ``index`` is ``value``: ``how`` goes on "it is"."""

    index: int
    name: str
    how: str
    value: Array
    rank: int


def _with_biases(site: Site, changes: list[_Change]) -> Compute:
    values = {one.index: one.value for one in changes}
    return lambda operands: site.compute([values.get(index, operand) for index, operand in enumerate(operands)])


def _change(index: int, own: Array, recorded: Array) -> _Change:
    """What makes ``recorded`` of a bias, the simplest first."""
    energy = float(own @ own)
    factor = float(own @ recorded) / energy if energy else 0.0
    if energy and _is_close(recorded, factor * own, own):
        name, how = _times(factor)
        return _Change(index, name, how, own * round(factor, 12), 0 if name != "bias-scaled" else SOLVED)
    changed = np.flatnonzero(np.abs(recorded - own) > _SAME * np.abs(own).max(initial=0.0))
    run = slice(int(changed[0]), int(changed[-1]) + 1) if changed.size else slice(0)
    part, whole = recorded[run], own[run]
    factor = float(whole @ part) / float(whole @ whole) if whole.any() else 0.0
    if len(whole) > 1 and _is_close(part, factor * whole, own):
        name, how = _times(factor)
        value = own.copy()
        value[run] *= factor
        return _Change(index, name, f"{how} at its elements {run.start} to {run.stop - 1}", value, SOLVED)
    if _is_close(np.sort(recorded), np.sort(own), own):
        return _Change(index, "bias-reordered", "added with its elements in another order", recorded, SOLVED)
    if changed.size <= max(1, own.size // _FEW):
        named = listed((f"{recorded[at]:.4g} in place of {own[at]:.4g} at element {at}" for at in changed), _NAMED)
        return _Change(index, "bias-elements", named, recorded, SOLVED)
    ranges = [f"from {one.min():.4g} to {one.max():.4g}" for one in (recorded, own)]
    return _Change(index, "same-added", f"another one ({ranges[0]}; the file's is {ranges[1]})", recorded, LOOSE)


def _times(factor: float) -> tuple[str, str]:
    """The name of the mistake that a bias counts ``factor`` times, and words for it."""
    for whole, name, how in ((0.0, "bias-missing", "left out"), (2.0, "bias-twice", "added twice"), (-1.0, "bias-negated", "taken off")):
        if abs(factor - whole) < _SAME:
            return name, how
    return "bias-scaled", f"added {factor:.4g} times"


def _is_close(a: Array, b: Array, own: Array) -> bool:
    return bool(np.abs(a - b).max(initial=0.0) <= _SAME * np.abs(own).max(initial=0.0))
