"""The search for what explains a wrong stage: each alternative is put in its place, and the stage computed again from what was recorded."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aprgraph.graph.ir import Node, renamed
from aprgraph.graph.ops import Array, is_computed, traits_of
from aprgraph.runtime.explain.alternative import LOOSE, SOLVED, Alternative, Changed, Compute, Rule, rules_of, second_rules_of
from aprgraph.runtime.explain.evidence import Evidence
from aprgraph.runtime.explain.explanation import Candidate, Explanation
from aprgraph.runtime.explain.inverse import operand_behind
from aprgraph.runtime.explain.parts import parts_of
from aprgraph.runtime.explain.roughly import CLEARLY, SAYS_ENOUGH, beside_16_bits, but_for_16_bits
from aprgraph.runtime.explain.site import Around, LeftWrong, Site, compute

#: Of what fits, what leaves more than this times the least error is no explanation beside it.
_AS_GOOD = 10.0
#: Errors below this are rounding, of which one is as good as another.
_ROUNDING = 1e-13
#: So many tensors of one stage are searched; of the others only what explained those is tried.
_SEARCHED = 2
#: So many nodes between recorded tensors are looked at, from the wrong one on.
MOST_NODES = 32
#: Pairs of mistakes are tried of that many at most, and where all values together have no more elements.
_MOST_PAIRS = 400
_SMALL = 1 << 20


@dataclass
class Explainer:
    """Explains the wrong tensors of one trace, which come in execution order."""

    #: By node with a state, what mistakes that explain earlier steps left there.
    left_wrong: dict[str, list[LeftWrong]] = field(default_factory=dict)
    _searched: dict[str, int] = field(default_factory=dict)
    _names: dict[str, list[str]] = field(default_factory=dict)

    def explain(self, evidence: Evidence, *, apart: str = "") -> Explanation | None:
        """The simplest mistake that explains a wrong stage; None where none that is known here does.

        Those of a stage that are searched are counted ``apart`` where they may only have been recorded otherwise, or are tried so.
        """
        stage = evidence.node.stage or ""
        known = self._names.setdefault(stage, [])
        beside = _Beside(evidence)
        found = self._best(evidence, lambda name: name in known, beside) if known else None
        count = f"{stage}{apart}"
        if found is None and self._searched.get(count, 0) >= _SEARCHED:
            return _roughly(evidence, beside)
        if found is not None:
            return found
        self._searched[count] = self._searched.get(count, 0) + 1
        beside = _Beside(evidence)
        found = self._best(evidence, lambda _: True, beside) or _roughly(evidence, beside)
        if found is not None:
            known += [part for one in found.candidates for part in one.name.split(" + ")]
        return found

    def _best(self, evidence: Evidence, wanted: Callable[[str], bool], beside: _Beside) -> Explanation | None:
        fits = list(self._fits(evidence, wanted, beside))
        if not fits:
            return None
        limit = max(_AS_GOOD * min(fit.error for fit in fits), _ROUNDING)
        good = [fit for fit in fits if fit.error <= limit]
        rank = min(fit.alternative.rank for fit in good)
        named = {fit.alternative.words: fit for fit in reversed(good) if fit.alternative.rank == rank}
        first, *others = reversed(named.values())
        for fit in (first, *others):
            self._keep_state(evidence, fit)
        return Explanation(_candidate(evidence, first), tuple(_candidate(evidence, other) for other in others))

    def _keep_state(self, evidence: Evidence, fit: _Fit) -> None:
        """Keep what a mistake leaves in the states of nodes, at it or behind it, which later steps read."""
        changed = _changed(evidence, fit.made) or {}
        for name, value in changed.items():
            state = traits_of(evidence.part[name]).state
            if state is None:
                continue
            if not state.is_result:
                node, made = evidence.part[name], fit.made.get(name)
                operands = _operands(evidence, node, ChainMap(changed, evidence.values))
                if made is None:
                    value = state.advance(operands, node.attrs, evidence.around.states.get(name))[1]
                elif made.after is not None:
                    value = made.after(operands)
                else:
                    continue
            left = LeftWrong(fit.alternative.name, fit.alternative.words, value)
            known = [one for one in self.left_wrong.get(name, ()) if one.words != left.words]
            self.left_wrong[name] = [*known, left]

    def _fits(self, evidence: Evidence, wanted: Callable[[str], bool], beside: _Beside) -> Iterator[_Fit]:
        """What fits: one mistake; if nothing says more than where, in a part; and else two mistakes."""
        offered: dict[str, list[tuple[Node, Alternative]]] = {}
        ranks: set[int] = set()

        def seen(fits: Iterator[_Fit]) -> Iterator[_Fit]:
            for fit in fits:
                ranks.add(fit.alternative.rank)
                yield fit

        yield from seen(_singly(evidence, wanted, offered, beside))
        if not ranks - {LOOSE}:
            known = bool(ranks)
            yield from seen(fit for fit in _in_parts(evidence, wanted) if not known or fit.alternative.rank < LOOSE)
        if not ranks:
            yield from _pairs(evidence, [place for places in offered.values() for place in places if place[1].rank == 0])


def _singly(
    evidence: Evidence, wanted: Callable[[str], bool], offered: dict[str, list[tuple[Node, Alternative]]], beside: _Beside
) -> Iterator[_Fit]:
    """One mistake, at one node or at several; whatever was ``offered`` is kept by its name, what fits ``beside`` rounding there."""
    alike: dict[str, list[tuple[Node, Alternative]]] = {}
    before = {left.words for node in evidence.part for left in evidence.around.left_wrong.get(node.name, ())}
    for site in _sites(evidence):
        for one in (one for rule in rules_of(site.node.op) for one in _offers(rule, site) if wanted(one.name)):
            offered.setdefault(one.name, []).append((site.node, one))
            # What a mistake left in a state goes with the mistake itself.
            for words in (*one.together, *([one.words] if one.words in before and one.words not in one.together else [])):
                alike.setdefault(words, []).append((site.node, replace(one, words=words)))
            yield from _fit(evidence, {site.node.name: one}, beside)
    tried: set[frozenset[tuple[str, int]]] = set()
    by_name = ([(node, one) for node, one in places if not one.together] for places in offered.values())
    for places in (*by_name, *alike.values()):
        by_node = {node.name: one for node, one in reversed(places)}
        made = frozenset((name, id(one.compute)) for name, one in by_node.items())
        if len(by_node) > 1 and made not in tried:
            tried.add(made)
            yield from _fit(evidence, by_node, beside)


def _roughly(evidence: Evidence, beside: _Beside) -> Explanation | None:
    """The mistake that explains a stage but for 16-bit rounding, if it does so by far better than any other."""
    fits = beside.fits
    limit = CLEARLY * min((fit.error for fit in fits), default=0.0)
    good = [fit for fit in fits if fit.error <= limit]
    rank = min((fit.alternative.rank for fit in good), default=LOOSE)
    best = [fit for fit in good if fit.alternative.rank == rank]
    if rank > SAYS_ENOUGH or len({fit.alternative.name for fit in best}) != 1:
        return None
    first = min(best, key=lambda fit: fit.error)
    return Explanation(_candidate(evidence, replace(first, alternative=beside_16_bits(first.alternative))))


def _in_parts(evidence: Evidence, wanted: Callable[[str], bool]) -> Iterator[_Fit]:
    """Mistakes in the part of the tensor that is wrong."""
    recorded, due = evidence.recorded, evidence.values[evidence.node.name]
    for part in () if recorded is None else parts_of(evidence.node, recorded, due, evidence.around):
        for site in _sites(evidence, part.mask):
            for one in (one for rule in rules_of(site.node.op) for one in _offers(rule, site) if wanted(one.name)):
                value = _computed(evidence, {site.node.name: one})
                error = None if value is None else evidence.error(np.where(part.mask, value, due))
                if error is not None:
                    there = replace(one, words=f"{one.words}, {part.words}")
                    yield _Fit(there, {}, error)


def _pairs(evidence: Evidence, offered: Sequence[tuple[Node, Alternative]]) -> Iterator[_Fit]:
    """Two mistakes at two nodes, or at one, where these are small and not too many."""
    if sum(value.size for value in evidence.values.values()) > _SMALL:
        return
    pairs = [(a, b) for index, a in enumerate(offered) for b in offered[index + 1 :] if a[0].name != b[0].name]
    for (a, one), (b, other) in pairs if len(pairs) <= _MOST_PAIRS else ():
        for fit in _fit(evidence, {a.name: one, b.name: other}):
            yield _Fit(_both(one, other, other.compute), {}, fit.error)
    yield from _at_one_node(evidence, [one for node, one in offered if node.name == evidence.node.name])


def _at_one_node(evidence: Evidence, offered: Sequence[Alternative]) -> Iterator[_Fit]:
    """Two mistakes at the wrong node: what the rules offer for it as another mistake leaves it."""
    site = next(_sites(evidence))
    seen: set[frozenset[str]] = set()
    for one in offered if site.recorded is not None and not traits_of(site.node).is_matmul else ():
        change = one.compute
        if not isinstance(change, Changed):
            continue
        node = renamed(site.node, attrs={**site.node.attrs, **change.attrs})
        due = _value(node, one, site.operands, evidence.around)
        if due is None or due.shape != site.due.shape:
            continue
        changed = replace(site, node=node, operands=change.change(site.operands), due=due)
        for other in (other for rule in second_rules_of(node.op) for other in _offers(rule, changed) if other.rank in (0, SOLVED)):
            words = frozenset((one.words, other.words))
            if other.name == one.name or words in seen:
                continue
            seen.add(words)
            value = _value(node, other, changed.operands, evidence.around)
            error = None if value is None or value.shape != site.due.shape else evidence.error(value)
            if error is not None:
                yield _Fit(_both(one, other, other.compute), {}, error)


def _both(one: Alternative, other: Alternative, compute: Compute) -> Alternative:
    if one.words == other.words:  # made twice
        return replace(one, compute=compute)
    return Alternative(f"{one.name} + {other.name}", f"{one.words}, and {other.words}", compute, max(one.rank, other.rank))


def _value(node: Node, instead: Alternative | None, operands: Sequence[Array], around: Around) -> Array | None:
    """What a node gives, or what does in its place; None where shapes do not go together."""
    try:
        with np.errstate(all="ignore"):
            return compute(node, operands, around) if instead is None else instead.compute(operands)
    except (ValueError, IndexError):
        return None


def _offers(rule: Rule, site: Site) -> list[Alternative]:
    """What a rule offers for a site."""
    try:
        with np.errstate(all="ignore"):
            return list(rule(site))
    except (ArithmeticError, LookupError, ValueError, np.linalg.LinAlgError):
        return []  # values or shapes that the rule did not foresee: it has nothing to say of them, and the audit goes on


@dataclass(frozen=True)
class _Fit:
    """An alternative that explains a stage, and the error that it leaves; ``made`` is what it is at each of the nodes it is made at."""

    alternative: Alternative
    made: Mapping[str, Alternative]
    error: float


class _Beside:
    """The mistakes that explain a stage but for 16-bit rounding, as they are met in the search for one that explains it."""

    def __init__(self, evidence: Evidence) -> None:
        self._error = but_for_16_bits(evidence)
        self.fits: list[_Fit] = []

    def look_at(self, value: Array, instead: Mapping[str, Alternative]) -> None:
        """Keep the mistakes ``instead``, under which the stage has ``value``, if they do."""
        error = None if self._error is None else self._error(value)
        if error is not None:
            self.fits.append(_Fit(list(instead.values())[-1], instead, error))


def _candidate(evidence: Evidence, fit: _Fit) -> Candidate:
    changes = 0
    for name, made in fit.made.items():
        node = evidence.part[name]
        value = _value(node, made, _operands(evidence, node, evidence.values), evidence.around)
        changes += 0 if value is None else int((value != evidence.values[name]).sum())
    one = fit.alternative
    return Candidate(one.name, one.words, fit.error, one.shows_in, tuple(fit.made), changes, one.rank, one.begins_at, one.counts)


def _fit(evidence: Evidence, instead: Mapping[str, Alternative], beside: _Beside | None = None) -> Iterator[_Fit]:
    value = _computed(evidence, instead)
    error = None if value is None else evidence.error(value)
    if value is not None and beside is not None:
        beside.look_at(value, instead)
    if error is not None:
        yield _Fit(list(instead.values())[-1], instead, error)


def _sites(evidence: Evidence, within: Array | None = None) -> Iterator[Site]:
    """The nodes that can be at fault, the wrong one first; with what was recorded of them, or must have been.

    ``within`` are the elements of the wrong one that a mistake is looked for in.
    """
    part, values = evidence.part, evidence.values
    recorded = {} if evidence.recorded is None else {evidence.node.name: evidence.recorded}
    for node, _ in reversed(evidence.computed[-MOST_NODES:]):
        operands, held = _operands(evidence, node, values), recorded.get(node.name)
        inside = within if node.name == evidence.node.name else None
        yield Site(node, operands, evidence.around, values[node.name], held, inside, values)
        if held is None or within is not None or not np.isfinite(held).all():
            continue
        for index, name in enumerate(part.operand_names(node.name)):
            if is_computed(part[name]) and len(part.users(name)) == 1:
                behind = operand_behind(node, operands, index, held - values[node.name])
                if behind is not None:
                    recorded[name] = behind


def _operands(evidence: Evidence, node: Node, values: Mapping[str, Array]) -> Sequence[Array]:
    part = evidence.part
    return [values[name] if name in values else evidence.around.read(part[name], node) for name in part.operand_names(node.name)]


def _computed(evidence: Evidence, instead: Mapping[str, Alternative]) -> Array | None:
    """The wrong node's value with ``instead`` at some nodes; None where that changes nothing, or cannot be computed."""
    changed = _changed(evidence, instead)
    return None if changed is None else changed.get(evidence.node.name)


def _changed(evidence: Evidence, instead: Mapping[str, Alternative]) -> dict[str, Array] | None:
    """The values that ``instead`` at some nodes makes others; what does not depend on these is not computed again.

    None where they cannot be computed.
    """
    changed: dict[str, Array] = {}
    values = ChainMap(changed, evidence.values)
    for node, names in evidence.computed:
        other = instead.get(node.name)
        if other is None and changed.keys().isdisjoint(names):
            continue
        value = _value(node, other, _operands(evidence, node, values), evidence.around)
        due = evidence.values[node.name]
        if value is None or value.shape != due.shape:
            return None
        if not (value == due).all():
            changed[node.name] = value
    return changed
