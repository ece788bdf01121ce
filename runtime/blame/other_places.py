"""Tensors in other programs' places: a trace is audited once more with its tensors where they may belong, and the better fit counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from aprgraph.runtime.blame.conventions import with_convention
from aprgraph.runtime.blame.local_errors import Audit, LocalError, LocalState
from aprgraph.runtime.blame.sentences import audit_sentence
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings import TraceAsRead
from aprgraph.runtime.readings.doubles import are_same, double_of, doubles_agree
from aprgraph.runtime.readings.places import Places, other_places, places_of_twins
from aprgraph.runtime.trace.reader import Trace

#: The part of the tensors that move that may be wrong in their new places too.
_WRONG_BESIDE = 0.25
#: Whether one tensor's replay settles that an audit is of no use.
Hopeless = Callable[[LocalError], bool]
#: Audits a trace, tensor by tensor; None as soon as one of them is hopeless.
AuditUnless = Callable[[Trace, Hopeless], Audit | None]


def in_other_places(found: Audit, trace: Trace, layers: int, audit: AuditUnless) -> Audit:
    """``found``, or the audit of ``trace`` with its tensors in other places, where these explain it.

    They do where the tensors that move are right there (of many, three quarters: a fault may lie beside the convention), and nothing is
    wrong that was right before. ``layers`` is the number of the model's. Raises what ``audit`` does.
    """
    unexplained = _unexplained(found, trace)
    if not unexplained:
        return found
    twins = _twins(found, trace)
    best: tuple[Audit, Places] | None = None
    for places in (*other_places(trace, layers), *([places_of_twins(trace, twins)] if twins else [])):
        if unexplained.isdisjoint(places.moved) or not doubles_agree(places, trace, layers):
            continue
        if places.around is not None and _explained(places, _part(trace, places), found, unexplained, audit) is None:
            continue
        again = _explained(places, trace, found, unexplained, audit)
        if again is None or not (places.far_reaching or _is_borne_out(found, again, places)):
            continue
        if best is None or len(again.wrong) < len(best[0].wrong):
            best = (again, places)
        if not again.wrong:
            break
    return found if best is None else _with_note(*best, layers)


def _is_borne_out(found: Audit, again: Audit, places: Places) -> bool:
    """Whether of every stage that moves some tensor's readers say that it was not computed so: wrong with it where it is, right without.

    A stage that was skipped holds another one's values as well, and nothing but what reads it tells.
    """
    witnesses = {
        source.stage
        for local in found.wrong
        if _is_right(again, local.key) or local.key in places.moved
        for source in local.sources
        if source in places.moved and local.key != source
    }
    return {key.stage for key in places.moved} <= witnesses


def _twins(found: Audit, trace: Trace) -> dict[Place, Place]:
    """The wrong tensors that hold what another stage holds. Of two that hold the same, the first is in the wrong place."""
    twins = {local.key: local.twin for local in found.wrong if local.twin is not None}
    for key, twin in list(twins.items()):
        if key in twins and twins.get(twin) == key and are_same(trace, key, twin):
            del twins[twin]
    return twins


def _unexplained(found: Audit, trace: Trace) -> frozenset[Place]:
    """The tensors that are wrong, and those that the model has not."""
    wrong = {local.key for local in found.locals if local.state in (LocalState.WRONG, LocalState.SHAPE)}
    foreign = {entry.key for entry in trace.entries} - set(found.by_key)
    return frozenset(wrong | foreign)


def _part(trace: Trace, places: Places) -> Trace:
    assert places.around is not None
    return TraceAsRead(trace, places={entry.key: None for entry in trace.entries if entry.key not in places.around})


def _explained(places: Places, trace: Trace, found: Audit, unexplained: frozenset[Place], audit: AuditUnless) -> Audit | None:
    """The audit of ``trace`` with its tensors in ``places``, where these explain it."""
    there = {entry.key for entry in trace.entries}
    moved = {key: target for key, target in places.moved.items() if key in there}
    back = {target: key for key, target in moved.items() if target is not None}
    # A real fault may lie beside the convention: it is wrong in either place.
    most = len(moved) * _WRONG_BESIDE if places.far_reaching else 0

    def explains(rest: set[Place], witnesses: frozenset[Place] = frozenset()) -> bool:
        unsettled = rest - witnesses
        return unsettled <= unexplained and len(unsettled & moved.keys()) <= most

    wrong: set[Place] = set()

    def hopeless(local: LocalError) -> bool:
        if _stays_wrong(local):
            wrong.add(back.get(local.key, local.key))
        # Of what is witnessed the readers come later.
        return not explains(wrong, frozenset(moved if places.witnessed else ()))

    again = audit(TraceAsRead(trace, places=moved), hopeless)
    if again is None:
        return None
    witnessed = _witnessed(found, again, moved) if places.witnessed else frozenset()
    if not explains({back.get(key, key) for key in _unexplained(again, again.as_read or trace)}, witnessed):
        return None
    # What is there twice is right where the other one is, which is not wrong then.
    right = {key for key, target in moved.items() if target is None or _is_right(again, target)}
    return again if (right | witnessed) & unexplained else None


def _witnessed(found: Audit, again: Audit, moved: Mapping[Place, Place | None]) -> frozenset[Place]:
    """The tensors of ``moved`` from which something does not follow where they are, and does where they go."""
    followed = {
        source
        for local in found.wrong
        if _is_right(again, local.key)
        for source in local.sources
        if source in moved and source != local.key
    }
    return frozenset(followed)


def _stays_wrong(local: LocalError) -> bool:
    """Whether the end of the audit cannot clear a tensor: that happens where the replay holds NaN or Inf, which may be the model's own."""
    is_finite = not isinstance(local.metrics, TensorMetrics) or not local.metrics.nan_b + local.metrics.inf_b
    return local.state in (LocalState.WRONG, LocalState.SHAPE) and is_finite


def _is_right(found: Audit, key: Place) -> bool:
    return key in found.by_key and found.by_key[key].state is LocalState.RIGHT


def _with_note(found: Audit, places: Places, layers: int) -> Audit:
    targets = [target for target in places.moved.values() if target is not None and target in found.by_key]
    wrong = sum(found.by_key[target].state is LocalState.WRONG for target in targets)
    fits = "is right" if not wrong else f"is right but for {wrong} of {len(targets)} tensors"
    there = [double_of(places, key, layers) if target is None else target for key, target in places.moved.items()]
    read = with_convention(found, there, places.name, places.words, f"read so, what moves {fits}, and nothing else is wrong for it")
    return replace(read, sentence=audit_sentence(read))
