"""What a replay says of one trace, in parts; and the lines that a comparison of two shares with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from aprgraph.graph.arguments import AGAIN, AUDIT, CHECK, MODEL, REPRO, RUN
from aprgraph.graph.message import Message
from aprgraph.graph.stages import EMBEDDING
from aprgraph.graph.words import counted, joined, listed
from aprgraph.runtime.blame.conventions import convention_clauses
from aprgraph.runtime.blame.local_errors import Audit, LocalError, LocalState
from aprgraph.runtime.blame.meant import perhaps_meant
from aprgraph.runtime.blame.sentences import explained, extent_of_right, is_explained, misshapen, overflowing, rest_of, undecided, unknown
from aprgraph.runtime.blame.suggest import Suspicion, arguments_for, suggest
from aprgraph.runtime.blame.telltales import telltales
from aprgraph.runtime.diff.caveats import by_importance
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.explain import MOST_NODES, how_well, tried_of
from aprgraph.runtime.place_names import NAMED, listed_and, named_together
from aprgraph.runtime.summary import Summary

#: Names of what lies between recorded tensors.
_INSIDE = 6
#: Where the script of a stage alone goes.
_FOLDER = "guilty"


def summary_of_audit(audit: Audit) -> Summary:
    """The parts of an audit."""
    notes = tuple(notes_of(audit, is_right=not audit.wrong))
    if not audit.replayed and not audit.misshapen:
        first = next(iter(audit.locals), None)
        why = "it holds no stage of the model" if first is None else Message(f"{first.label}: ", first.reason or "")
        return Summary(_outcome(audit), why=(why,), notes=notes)
    if not audit.wrong:
        where = tuple(filter(None, (misshapen(audit),)))
        return Summary(_outcome(audit), where, why=why_broken(audit), next=tuple(next_of_right(audit)), notes=notes)
    if audit.other_model is not None:
        other = audit.other_model
        command = AUDIT.given(shlex.quote(audit.trace)).with_options(
            MODEL.given(other.file or "MODEL"), in_python=f"aprgraph.audit({audit.trace!r}, {other.file or 'MODEL'!r})"
        )
        return Summary(
            _outcome(audit),
            where=(f"{len(audit.wrong):,} of {counted(audit.replayed, 'tensor')}, from {audit.wrong[0].label} on",),
            whose=(f"neither: {other.names}" if other.names else "not known",),
            why=(other.why,),
            next=("audit it by the model that it is a run of:", Message(command)),
            notes=notes,
        )
    return Summary(
        _outcome(audit),
        where=(*where_wrong(audit), rest_of(audit)),
        whose=(whose_of(audit, audit.name),),
        why=tuple(why_wrong(audit)),
        next=tuple(next_of_wrong(audit)),
        notes=(*file_line(audit, audit.name), *notes),
    )


def _outcome(audit: Audit) -> str:
    name = audit.name
    if not audit.replayed:
        return f"{name}: {'not of the shapes of the model' if audit.misshapen else 'nothing could be replayed'}."
    if audit.other_model is not None:
        return f"{name}: {audit.other_model.kind}."
    if audit.wrong:
        what = "wrong" if audit.suspect is None else f"not a run of {audit.suspect.file}"
        return f"{name}: {what} at {len(audit.wrong):,} of {counted(audit.replayed, 'tensor')}."
    but = ", but the model file is broken" if audit.broken is not None else ""
    return f"{name}: {extent_of_right(audit)}, {explained(audit)}{but}."


def where_wrong(audit: Audit) -> Iterator[str]:
    """What is wrong, a line for stages that are so at the same places: where in them, and by how much."""
    groups: dict[tuple[object, ...], list[list[LocalError]]] = {}
    for group in by_stage(audit.wrong):
        first = group[0]
        layers = tuple(one.key.layer for one in group)
        groups.setdefault((first.key.step, layers, first.limit, _extent(first), _replayed_from(first)), []).append(group)
    stages = list(groups.values())
    for alike in stages[:NAMED]:
        yield f"{named_together(one.key for of_stage in alike for one in of_stage)}{_how_far_off(alike)}"
    if len(stages) > NAMED:
        rest = [one for alike in stages[NAMED:] for of_stage in alike for one in of_stage]
        yield f"{counted(len(rest), 'more tensor')}: {named_together(one.key for one in rest)}"


def by_stage(wrong: Sequence[LocalError]) -> list[list[LocalError]]:
    """Wrong tensors by step and stage, in execution order."""
    groups: dict[tuple[int, str], list[LocalError]] = {}
    for local in wrong:
        groups.setdefault((local.key.step, local.key.stage), []).append(local)
    return list(groups.values())


def _how_far_off(groups: Sequence[Sequence[LocalError]]) -> str:
    """``, at positions 1 to 6: local error 2.9e-02 (limit 1e-10)``: of the first tensors, and the largest error of all."""
    first = groups[0][0]
    errors = [one.error for group in groups for one in group if one.error is not None]
    if not errors or (isinstance(first.metrics, TensorMetrics) and first.metrics.mismatched_nonfinite):
        return f": {first.reason}" if first.reason else ""
    at, before = _extent(first), _replayed_from(first)
    up_to = "up to " if len(errors) > 1 else ""
    return f"{f', at {at}' if at else ''}: local error {up_to}{max(errors):.1e} (limit {first.limit:.0e}){before}"


def _extent(local: LocalError) -> str:
    """The positions, heads or columns that are off, where others are not."""
    at = [axis.places for axis in local.by_axis if axis.name == "position" and 0 < len(axis.wrong) < len(axis.errors)]
    return joined([*at, *(axis.extent for axis in local.by_axis if axis.name != "position" and axis.extent is not None)])


def _replayed_from(local: LocalError) -> str:
    between = [name for name in local.region[:-1] if "." in name]
    return f", replayed from {local.sources[-1].in_step_label} on" if local.sources and len(between) > 1 else ""


def whose_of(audit: Audit, name: str) -> str:
    """Whether the trace is wrong by itself, or the file may be."""
    if audit.suspect is None:
        return f"{name}, and not the model file"
    return f"{name}, or {audit.suspect.file}: nothing says that {name} was computed from that very file"


def why_wrong(audit: Audit) -> Iterator[str]:
    """The mistakes that explain what is wrong, then what none explains, and where that lies."""
    found = telltales(audit.wrong)
    fits = [one for one in found if one.cause is not None]
    for one in fits[:NAMED]:
        is_all = ", which is all that is wrong" if len(one.of) == len(audit.wrong) > 1 else ""
        yield f"{one.cause}: fits {how_well(one.error or 0.0)} at {one.where}{is_all}"
    if len(fits) > NAMED:
        yield f"{counted(len(fits) - NAMED, 'more explanation')}, in the table"
    yield from _unexplained([one for one in audit.wrong if one.explanation is None])
    if audit.suspect is not None:
        if is_explained(audit) and audit.suspect.guessed:
            yield f"the file does not say {joined(audit.suspect.guessed)}"
        yield from (f"in the file, {seen}" for seen in audit.suspect.seen)


def _unexplained(wrong: Sequence[LocalError]) -> Iterator[str]:
    """What no explanation fits: how many were tried, what the values give away all the same, and where it lies."""
    if not wrong:
        return
    first, ops = wrong[0], list(dict.fromkeys(op for one in wrong for op in one.ops))
    known = f"none of the {counted(tried_of(ops), 'kind')} of mistakes that are known of {listed_and(ops, NAMED)} (docs/explanations.md)"
    yield f"no explanation fits {named_together(one.key for one in wrong)}: {known}"
    longest = max(len(one.region) for one in wrong)
    if longest > MOST_NODES:
        yield f"of up to {longest} nodes between recorded tensors the last {MOST_NODES} were looked at: record more stages to look at all"
    yield from (f"at {one.where} {one.words}" for one in telltales(wrong)[:NAMED] if one.of[0].twin is not None)
    if first.region:
        reads = f", which {'reads' if len(first.region) == 1 else 'read'} {listed(first.weights[::-1], NAMED)}" if first.weights else ""
        after = f"; computed from {listed((key.label for key in first.sources[::-1]), NAMED)}" if first.sources else ""
        of = f", of {first.label}," if len(wrong) > 1 else ""
        yield f"the cause{of} lies in {listed(first.region[::-1], _INSIDE)}{reads}{after}"


def next_of_wrong(audit: Audit) -> Iterator[str]:
    """What to record or to look at next."""
    first = audit.wrong[0]
    plan = suggest(Suspicion(first.key, first.inside, first.sources), {local.key for local in audit.locals})
    if plan is not None and first.explanation is None:
        yield f"several stages lie there: record {listed(plan.stages, NAMED)} too, as does"
        options = arguments_for(plan, first.key.step)
        yield Message(
            RUN.given(shlex.quote(audit.model)).with_options(*options, in_python=f"CompiledModel.run({', '.join(map(str, options))})")
        )
    else:
        yield f"{first.label} alone, with its inputs and weights, as a script:"
        yield Message(
            AGAIN.with_options(
                REPRO.given(_FOLDER), in_python=f"aprgraph.runtime.blame.repro.write_repro(Path({_FOLDER!r}), trace, model, local)"
            )
        )
    yield from perhaps_meant(audit)


def why_broken(audit: Audit) -> tuple[str, ...]:
    """That the model's own weights hold NaN or Inf, if they do."""
    return () if audit.broken is None else (audit.broken,)


def next_of_right(audit: Audit) -> Iterator[str]:
    """What to look at where nothing of a trace is wrong."""
    if audit.broken is not None:
        yield "what is wrong with the model file:"
        yield Message(CHECK.given(shlex.quote(audit.model), f"aprgraph.check({audit.model!r})"))


def file_line(audit: Audit, name: str) -> Iterator[str]:
    """What of the file may be at fault in place of the trace, in a line."""
    if audit.suspect is not None:
        yield f"if {name} has the original checkpoint, the fault is in {audit.suspect.file}: {audit.suspect.describe()}"


def notes_of(audit: Audit, *, is_right: bool) -> Iterator[str]:
    """What was not judged, what is read otherwise, and what else is to be known of a replay."""
    yield from why_broken(audit) if audit.wrong else ()
    left = [one for one in audit.locals if one.state is LocalState.UNKNOWN]
    is_embedding = [one.key.stage for one in left] == [EMBEDDING] and not audit.prompt.tokens  # of which a note says how to know it
    yield from filter(
        None,
        (
            misshapen(audit) if audit.wrong else "",
            overflowing(audit),
            undecided(audit),
            "" if is_embedding or not audit.replayed else unknown(audit),
        ),
    )
    yield from convention_clauses(audit)
    yield from (one.sentence for one in audit.reservations if is_right or not one.only_if_alike)
    # That the model is broken stands in what is why.
    yield from (note for note in by_importance(audit.notes) if audit.broken is None or not note.startswith(audit.broken))
