"""What a comparison and the replays of both sides say, in parts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from aprgraph.graph.arguments import DIFF, MODEL, MODEL_A, MODEL_B, Argument
from aprgraph.graph.message import Message
from aprgraph.graph.words import counted, joined
from aprgraph.runtime.blame.local_errors import Audit, Blame, LocalState, Verdict
from aprgraph.runtime.blame.sentences import misshapen
from aprgraph.runtime.blame.summary import file_line, next_of_right, next_of_wrong, notes_of, where_wrong, why_broken, why_wrong
from aprgraph.runtime.blame.whose_fault import agree_and_are_wrong, tally_in_words
from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.diff.caveats import by_importance
from aprgraph.runtime.diff.summary import outcome_of_diff, where_they_part
from aprgraph.runtime.summary import Summary


def summary_with_blame(report: Comparison, blame: Blame) -> Summary:
    """The parts of a comparison of which both sides were replayed."""
    sides = [(side, audit) for side, audit in (("A", blame.a), ("B", blame.b)) if audit.wrong]
    causes = tuple(one.sentence for one in report.reservations if one.is_cause)
    notes = tuple(dict.fromkeys(_notes(report, blame)))
    if not sides:
        return _of_neither(report, blame, causes, notes)
    strangers = [(side, audit) for side, audit in sides if audit.other_model is not None]
    if strangers:
        return _of_another_model(report, strangers, notes)
    both = len(sides) == 2
    agree = both and agree_and_are_wrong(report, blame.a, blame.b)
    told = sides[:1] if agree else sides
    files = [line for side, audit in told for line in file_line(audit, "both" if agree else report.names.of(side))]
    return Summary(
        _outcome(report, blame, sides, agree=agree),
        where=tuple(_where(report, told)),
        whose=tuple(_whose(report, blame, sides, agree=agree)),
        why=(*(f"{_of(report, side, told)}{line}" for side, audit in told for line in why_wrong(audit)), *causes),
        next=tuple(next_of_wrong(sides[0][1])),
        notes=(*files, *notes),
    )


def _of(report: Comparison, side: str, told: Sequence[tuple[str, Audit]]) -> str:
    """Which side a line is of, where it could be either."""
    return f"{report.names.of(side)}: " if len(told) > 1 else ""


def _outcome(report: Comparison, blame: Blame, sides: Sequence[tuple[str, Audit]], *, agree: bool) -> str:
    names = report.names
    if agree:
        return f"{names.of('A')} and {names.of('B')} agree, and both are wrong."
    if len(sides) == 2:
        return f"{names.of('A')} and {names.of('B')} are both wrong."
    ((side, audit),) = sides
    verdict = "wrong" if audit.suspect is None else f"not a run of {audit.suspect.file}"
    other = blame.b if side == "A" else blame.a
    theirs = names.of("B" if side == "A" else "A")
    is_right = other.exit_code == 0 and LocalState.UNKNOWN not in other.counts
    return f"{names.of(side)} is {verdict}" + (f"; {theirs} is right." if is_right else ".")


def _where(report: Comparison, told: Sequence[tuple[str, Audit]]) -> Iterator[str]:
    for side, audit in told:
        yield from (f"{_of(report, side, told)}{line}" for line in where_wrong(audit))
    if report.diverged:
        first = report.row(report.first[0].key) if report.first else None
        begin = "" if first is None else f", from {first.label} on" if report.diverged > 1 else f": {first.label}"
        differ = "differs" if report.diverged == 1 else "differ"
        yield f"{report.diverged:,} of {counted(report.compared, 'compared tensor')} {differ}{begin}"


def _whose(report: Comparison, blame: Blame, sides: Sequence[tuple[str, Audit]], *, agree: bool) -> Iterator[str]:
    names = report.names
    if agree:
        file = next((audit.suspect.file for _, audit in sides if audit.suspect is not None), None)
        yield "both, in the same way: neither is what the model computes" + (
            "" if file is None else f", or {file} is not the model of either"
        )
        return
    if len(sides) == 2:
        yield "both, each by itself" + "".join(dict.fromkeys(_or_file(audit) for _, audit in sides))
    else:
        ((side, audit),) = sides
        yield f"{names.of(side)}{_or_file(audit)}{_beside(report, blame, side)}"
    yield tally_in_words(blame.verdicts)


def _or_file(audit: Audit) -> str:
    return "" if audit.suspect is None else f", or {audit.suspect.file}: nothing says that it was computed from that very file"


def _beside(report: Comparison, blame: Blame, side: str) -> str:
    """The other side's error where this one is wrong first."""
    audit, other, name = (blame.a, blame.b, "B") if side == "A" else (blame.b, blame.a, "A")
    theirs = other.by_key.get(audit.wrong[0].key)
    if theirs is None or theirs.error is None or theirs.state is not LocalState.RIGHT:
        return ""
    return f"; {report.names.of(name)} is right there ({f'{theirs.error:.0e}' if theirs.error else '0'})"


def _of_another_model(report: Comparison, strangers: Sequence[tuple[str, Audit]], notes: tuple[str, ...]) -> Summary:
    names = [report.names.of(side) for side, _ in strangers]
    others = [audit.other_model for _, audit in strangers if audit.other_model is not None]
    several = len(strangers) == 2
    are = "are traces of another model" if several else "is a trace of another model"
    known = [one.file or "MODEL" for one in others]
    a, b = shlex.quote(report.a), shlex.quote(report.b)
    if several and len(set(known)) == 1:
        options: tuple[Argument, ...] = (MODEL.given(known[0]),)
    else:
        of = {side: audit.other_model.file if audit.other_model is not None else "" for side, audit in strangers}
        options = (MODEL_A.given(of.get("A") or others[0].given), MODEL_B.given(of.get("B") or others[0].given))
    command = DIFF.given(f"{a} {b}").with_options(
        *options, in_python=f"aprgraph.diff({report.a!r}, {report.b!r}, {', '.join(map(str, options))})"
    )
    return Summary(
        f"{joined(names)} {are} than {others[0].given}.",
        where=tuple(where_they_part(report)) if report.diverged else (report.parting,),
        whose=tuple(dict.fromkeys(f"neither: {one.names}" if one.names else "not known" for one in others)),
        why=tuple(dict.fromkeys(one.why for one in others)),
        next=("compare each by the model that it is a run of:", Message(command)),
        notes=notes,
    )


def _notes(report: Comparison, blame: Blame) -> Iterator[str]:
    """What each replay leaves open, and what the comparison does."""
    said: dict[str, list[str]] = {}
    for side, audit in (("A", blame.a), ("B", blame.b)):
        own = set(audit.notes)
        for line in notes_of(audit, is_right=True):
            if line not in own:
                said.setdefault(line, []).append(report.names.of(side))
    yield from (Message(f"{' and '.join(sides)}: ", line) for line, sides in said.items())
    is_alike = not report.diverged
    yield from (one.sentence for one in report.reservations if not one.is_cause and (is_alike or not one.only_if_alike))
    broken = next((audit.broken for audit in (blame.a, blame.b) if audit.broken is not None), None)
    yield from (note for note in by_importance(report.all_notes) if broken is None or not note.startswith(broken))


def _shares(blame: Blame) -> Iterator[str]:
    if blame.other_weights is not None and blame.other_weights.shares:
        yield blame.other_weights.sentence


def _of_neither(report: Comparison, blame: Blame, causes: tuple[str, ...], notes: tuple[str, ...]) -> Summary:
    """Where no replay of a side says that it is wrong: nobody is, or a side by elimination, or it is not known."""
    audits = {"A": blame.a, "B": blame.b}
    shapes = [f"{report.names.of(side)}: {text}" for side, audit in audits.items() if (text := misshapen(audit))]
    eliminated = next((verdict for verdict in blame.verdicts.values() if verdict.is_wrong), None)
    outcome = outcome_of_diff(report)
    if eliminated is not None:
        outcome = f"{report.names.of('A' if eliminated is Verdict.A_WRONG else 'B')} is wrong."
    broken = next((audit for audit in audits.values() if audit.broken is not None), None)
    if broken is not None:
        outcome = f"{outcome.removesuffix('.')}, but the model file is broken."
    return Summary(
        outcome,
        where=(*(where_they_part(report) if report.diverged else ()), *shapes),
        whose=(blame.whose,),
        why=(*(() if broken is None else why_broken(broken)), *(causes if report.diverged else ()), *_shares(blame)),
        next=() if broken is None else tuple(next_of_right(broken)),
        notes=notes if report.diverged else (*notes, *causes),
    )
