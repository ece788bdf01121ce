"""Whose fault it is that two sides differ, in sentences: who is wrong and where, or why nobody is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aprgraph.graph.message import Message, join_messages
from aprgraph.runtime.blame.conventions import convention_clauses
from aprgraph.runtime.blame.local_errors import Audit, LocalState, Verdict
from aprgraph.runtime.blame.sentences import asides, cause, explanations, is_explained, places, seen_in_file
from aprgraph.runtime.blame.weight_share import OtherWeights
from aprgraph.runtime.diff.graph_differences import GraphDifferences
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.place import Place
from aprgraph.runtime.place_names import NAMED

#: Who is wrong and where, or why nobody is; and whether what the two sides say of each other is to be said before.
Fault: TypeAlias = tuple[str, bool]


def blame_sentence(
    report: DiffReport,
    a: Audit,
    b: Audit,
    whose: str,
    *,
    needs_verdict: bool,
    other_weights: OtherWeights | None = None,
) -> str:
    """What blame found: ``whose`` fault it is, after what the two say of each other where that is to be said before."""
    sides = ((report.names.of("A"), a), (report.names.of("B"), b))
    conventions = [f"In {name}, {text}." for name, audit in sides for text in convention_clauses(audit)]
    shares = [other_weights.sentence] if other_weights is not None and other_weights.shares else []
    return join_messages(" ", [*([report.verdict] if needs_verdict else []), whose, *conventions, *shares])


def whose_fault(report: DiffReport, a: Audit, b: Audit, verdicts: Mapping[Place, Verdict], graphs: GraphDifferences | None = None) -> Fault:
    """Who is wrong and where, or why nobody is; ``graphs`` are the differences of the graphs that the two were replayed by."""
    strangers = [(side, audit) for side, audit in (("A", a), ("B", b)) if audit.wrong and audit.other_model is not None]
    if strangers:
        return _of_another_model(report, strangers), False
    if a.wrong and b.wrong:
        return _both_are_wrong(report, a, b), False
    if a.wrong or b.wrong:
        return _one_is_wrong(report, a, b, verdicts), False
    if not a.replayed and not b.replayed:
        return Message("Which side is wrong cannot be said: ", _why(a), "."), True
    if not report.diverged:
        return f"The model explains {_counts(report, a, b)}.{_read_otherwise(report, a, b)}", True
    case = _Difference(report, a, b, verdicts, graphs)
    return next((fault for rule in _OF_A_DIFFERENCE if (fault := rule(case)) is not None), None) or (
        Message("Which side is wrong cannot be said: ", _why(a, b), "."),
        True,
    )


def _one_is_wrong(report: DiffReport, a: Audit, b: Audit, verdicts: Mapping[Place, Verdict]) -> str:
    side, other_side, audit, other = ("A", "B", a, b) if a.wrong else ("B", "A", b, a)
    name = report.names.of(side)
    verdict = "wrong" if audit.suspect is None else f"not a run of {audit.suspect.file}"
    where = places(audit.wrong, other, report.names.of(other_side))
    return Message(f"{name} is {verdict} at {where}; ", tally_in_words(verdicts), asides(audit), f".{cause(audit, name)}")


def _both_are_wrong(report: DiffReport, a: Audit, b: Audit) -> str:
    ours, theirs = report.names.of("A"), report.names.of("B")
    if agree_and_are_wrong(report, a, b):
        agree = f"{ours} and {theirs} agree, and both are wrong at {places(a.wrong)}: neither is what the model computes."
        return f"{agree}{_cause_of_both(a, b)}"
    return f"Both are wrong: {ours} at {places(a.wrong)}; {theirs} at {places(b.wrong)}.{_cause_of_both(a, b)}"


@dataclass(frozen=True)
class _Difference:
    """Two sides that differ, of which no replay says that one is wrong."""

    report: DiffReport
    a: Audit
    b: Audit
    verdicts: Mapping[Place, Verdict]
    graphs: GraphDifferences | None

    def first(self, *wanted: Verdict) -> Place | None:
        """The first tensor with one of these verdicts."""
        return next((key for key, verdict in self.verdicts.items() if verdict in wanted), None)


def _wrong_by_elimination(case: _Difference) -> Fault | None:
    key = case.first(Verdict.A_WRONG, Verdict.B_WRONG)
    if key is None:
        return None
    side, audit = ("A", case.a) if case.verdicts[key] is Verdict.A_WRONG else ("B", case.b)
    wrong = f"{case.report.names.of(side)} is wrong at {case.report.row(key).label}"
    right = ": the other side is right there, and what both are computed from agrees (it could not be replayed: "
    return Message(wrong, right, _reason_of(audit, key), ")."), False


def _out_of_range(case: _Difference) -> Fault | None:
    overflow = next((one for audit in (case.a, case.b) for one in audit.overflowing), None)
    return None if overflow is None else (f"Neither side is blamed at {overflow.label}: {overflow.reason}.", True)


def _by_other_graphs(case: _Difference) -> Fault | None:
    key = case.first(Verdict.OTHER_GRAPH)
    if key is None or case.graphs is None:
        return None
    row = case.report.row(key)
    return (
        f"Neither side is wrong: each is right by its own graph, and the two ran different ones. They part at {row.label} "
        f"({row.reason}), where {'; '.join(difference.sentence for difference in case.graphs.computed[:NAMED])}."
    ), False


def _by_other_weights(case: _Difference) -> Fault | None:
    if case.first(Verdict.OTHER_WEIGHTS) is None or case.first(Verdict.UNKNOWN) is not None:
        return None
    return f"Neither side is wrong: each is right by its own model, {_counts(case.report, case.a, case.b)}.", True


def _adds_up(case: _Difference) -> Fault | None:
    first = next(
        (key for key, one in case.verdicts.items() if one in (Verdict.ADDS_UP, Verdict.UNKNOWN) and _is_off(case.report, key)), None
    )
    if first is None or case.verdicts[first] is not Verdict.ADDS_UP:
        return None
    row = case.report.row(first)
    return (
        f"Neither side is wrong at any stage: each is within the tolerance of its own arithmetic, given its inputs, and the "
        f"differences add up to more than the limit at {row.label} ({row.reason})."
    ), False


#: What may be said of a difference for which no replay says who is wrong; the first that has something to say is heard.
_OF_A_DIFFERENCE: tuple[Callable[[_Difference], Fault | None], ...] = (
    _wrong_by_elimination,
    _out_of_range,
    _by_other_graphs,
    _by_other_weights,
    _adds_up,
)


def agree_and_are_wrong(report: DiffReport, a: Audit, b: Audit) -> bool:
    """Whether both sides are wrong at the same tensors, and do not differ."""
    return [local.key for local in a.wrong] == [local.key for local in b.wrong] and not report.diverged


def tally_in_words(verdicts: Mapping[Place, Verdict]) -> str:
    """How many tensors are wrong, and how many more differ for it; the same numbers as in tables, page and graph."""
    wrong = sum(verdict.is_wrong for verdict in verdicts.values())
    follows = sum(verdict is Verdict.FOLLOWS for verdict in verdicts.values())
    text = f"{wrong} of {len(verdicts)} tensors {'is' if wrong == 1 else 'are'} wrong"
    if not follows:
        return text
    return f"{text}, {follows} more differ{'s' if follows == 1 else ''} and follow{'s' if follows == 1 else ''} from what is wrong"


def _of_another_model(report: DiffReport, strangers: Sequence[tuple[str, Audit]]) -> str:
    """Which sides are traces of another model than that of the replay; what the two say of each other stands all the same."""
    names = " and ".join(report.names.of(side) for side, _ in strangers)
    found = list(dict.fromkeys(audit.other_model.sentence for _, audit in strangers if audit.other_model is not None))
    if len(strangers) == 2 and len(found) == 1:
        said = [f"Of both, {names}: {found[0]}."]
    else:
        said = [f"{report.names.of(side)}: {one.other_model.sentence}." for side, one in strangers if one.other_model is not None]
    return join_messages(" ", [*said, report.parting])


def _read_otherwise(report: DiffReport, a: Audit, b: Audit) -> str:
    """Which sides are right only as they are to be read, as a further sentence."""
    sides = [report.names.of(side) for side, audit in (("A", a), ("B", b)) if audit.is_read_otherwise]
    return f" This is so by how {' and '.join(sides)} recorded it." if sides else ""


def _cause_of_both(a: Audit, b: Audit) -> str:
    suspect = a.suspect or b.suspect
    if suspect is None:
        return ""
    owner = a if a.suspect else b
    said = "".join(f" {sentence}" for sentence in explanations(owner)) if is_explained(owner) else ""
    return f"{said} If they have the original checkpoint, the fault is in {suspect.file}: {suspect.describe()}.{seen_in_file(owner)}"


def _why(*audits: Audit) -> str:
    for audit in audits:
        for local in audit.locals:
            if local.state is LocalState.UNKNOWN:
                return Message(f"{local.label} of {audit.trace}: ", local.reason or "")
    return "the stages between were not recorded"


def _reason_of(audit: Audit, key: Place) -> str:
    local = audit.by_key.get(key)
    return (local.reason if local is not None else None) or "it was not recorded"


def _counts(report: DiffReport, a: Audit, b: Audit) -> str:
    ours, theirs = (report.names.of(side) for side in "AB")
    return f"the {a.replayed} tensors of {ours} and the {b.replayed} of {theirs} that could be replayed"


def _is_off(report: DiffReport, key: Place) -> bool:
    return any(first.key == key for first in report.first) or report.row(key).classification.value in ("ACCUMULATED", "INTRODUCED", "NAN")
