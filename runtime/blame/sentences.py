"""The sentence that a person wants to read first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aprgraph.graph.message import Message, join_messages
from aprgraph.graph.words import as_sentence, joined
from aprgraph.runtime.blame.conventions import convention_sentences
from aprgraph.runtime.blame.local_errors import NAMED, Audit, LocalError, LocalState, Verdict, named
from aprgraph.runtime.blame.weight_share import OtherWeights
from aprgraph.runtime.diff.graph_differences import GraphDifferences
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.place import Place


def audit_sentence(audit: Audit) -> str:
    """What an audit found."""
    if not audit.replayed and audit.misshapen:
        return Message(f"{audit.name}: not of the model's shapes, and nothing could be replayed{misshapen(audit)}", _unknown(audit), ".")
    if not audit.replayed:
        why = audit.locals[0].reason if audit.locals else "it holds no stage of the model"
        return Message(f"{audit.name}: nothing could be replayed: ", why or "", ".")
    aside = Message(_broken(audit), misshapen(audit), overflowing(audit), _unknown(audit))
    if not audit.wrong:
        tensors = "the one tensor" if audit.replayed == 1 else f"all {audit.replayed} tensors"
        read = audit.is_read_otherwise
        extents = [one.extent for one in audit.reservations if one.extent is not None]
        how_far = f" as far as {joined(extents)}{', which is too little to go by' if audit.is_too_little else ''}" if extents else ""
        verdict = "not of the model's shapes" if audit.misshapen else f"right{how_far}{', by how it was recorded' if read else ''}"
        explains = Message(f"{audit.name}: {verdict}, the model explains {tensors} that could be replayed", aside, ".")
        return join_messages(" ", [explains, *convention_sentences(audit), *_known(audit, is_right=True)])
    verdict = "wrong" if audit.suspect is None else f"not a run of {audit.suspect.file}"
    wrong = Message(f"{audit.name}: {verdict} at {places(audit.wrong)}; {_rest(audit)}", aside, f".{_cause(audit, audit.name)}")
    return join_messages(" ", [wrong, *convention_sentences(audit), *_known(audit, is_right=False)])


def _known(audit: Audit, *, is_right: bool) -> list[str]:
    """What else has to be known of the verdict, as sentences."""
    return [as_sentence(one.sentence) for one in audit.reservations if is_right or not one.only_if_alike]


def blame_sentence(
    report: DiffReport,
    a: Audit,
    b: Audit,
    verdicts: Mapping[Place, Verdict],
    graphs: GraphDifferences | None = None,
    other_weights: OtherWeights | None = None,
) -> str:
    """What blame found."""
    sides = ((report.names.of("A"), a), (report.names.of("B"), b))
    conventions = [f"In {name}, {text[:1].lower()}{text[1:]}" for name, audit in sides for text in convention_sentences(audit)]
    shares = [other_weights.sentence] if other_weights is not None and other_weights.shares else []
    return join_messages(" ", [_found(report, a, b, verdicts, graphs), *conventions, *shares])


def _found(report: DiffReport, a: Audit, b: Audit, verdicts: Mapping[Place, Verdict], graphs: GraphDifferences | None) -> str:
    """Who is wrong and where, or why nobody is."""
    names = report.names
    sides = [(side, audit, other) for side, audit, other in (("A", a, b), ("B", b, a)) if audit.wrong]
    if len(sides) == 1:
        (side, audit, other) = sides[0]
        theirs = names.of("B" if side == "A" else "A")
        verdict = "wrong" if audit.suspect is None else f"not a run of {audit.suspect.file}"
        where = places(audit.wrong, other, theirs)
        aside = Message(_tally(verdicts), misshapen(audit), overflowing(audit), _unknown(audit))
        return Message(f"{names.of(side)} is {verdict} at {where}; ", aside, f".{_cause(audit, names.of(side))}")
    if sides:
        same = [local.key for local in a.wrong] == [local.key for local in b.wrong]
        if same and not report.diverged:
            both = f"{names.of('A')} and {names.of('B')}"
            return f"{both} agree, and both are wrong at {places(a.wrong)}: neither is what the model computes.{_cause_of_both(a, b)}"
        return f"Both are wrong: {names.of('A')} at {places(a.wrong)}; {names.of('B')} at {places(b.wrong)}.{_cause_of_both(a, b)}"
    if not a.replayed and not b.replayed:
        return Message(report.verdict, " Which side is wrong cannot be said: ", _why(a), ".")
    if not report.diverged:
        return Message(report.verdict, f" The model explains {_counts(report, a, b)}.{_read_otherwise(report, a, b)}")
    by_elimination = [key for key, verdict in verdicts.items() if verdict in (Verdict.A_WRONG, Verdict.B_WRONG)]
    if by_elimination:
        side = "A" if verdicts[by_elimination[0]] is Verdict.A_WRONG else "B"
        label = report.row(by_elimination[0]).label
        return Message(
            f"{names.of(side)} is wrong at {label}: the other side is right there, and what both are computed from agrees "
            "(it could not be replayed: ",
            _reason_of(a if side == "A" else b, by_elimination[0]),
            ").",
        )
    overflow = next((one for audit in (a, b) for one in audit.overflowing), None)
    if overflow is not None and not by_elimination:
        return Message(report.verdict, f" Neither side is blamed at {overflow.label}: {overflow.reason}.")
    other_graph = next((key for key, verdict in verdicts.items() if verdict is Verdict.OTHER_GRAPH), None)
    if other_graph is not None and graphs is not None:
        row = report.row(other_graph)
        return (
            f"Neither side is wrong: each is right by its own graph, and the two ran different ones. They part at {row.label} "
            f"({row.reason}), where {'; '.join(difference.sentence for difference in graphs.computed[:NAMED])}."
        )
    if Verdict.OTHER_WEIGHTS in verdicts.values() and Verdict.UNKNOWN not in verdicts.values():
        return Message(report.verdict, f" Neither side is wrong: each is right by its own model, {_counts(report, a, b)}.")
    first = next((key for key, verdict in verdicts.items() if verdict in (Verdict.ADDS_UP, Verdict.UNKNOWN) and _is_off(report, key)), None)
    if first is not None and verdicts[first] is Verdict.ADDS_UP:
        row = report.row(first)
        return (
            f"Neither side is wrong at any stage: each is within the tolerance of its own arithmetic, given its inputs, and the "
            f"differences add up to more than the limit at {row.label} ({row.reason})."
        )
    return Message(report.verdict, " Which side is wrong cannot be said: ", _why(a, b), ".")


def _read_otherwise(report: DiffReport, a: Audit, b: Audit) -> str:
    """Which sides are right only as they are to be read, as a further sentence."""
    sides = [report.names.of(side) for side, audit in (("A", a), ("B", b)) if audit.is_read_otherwise]
    return f" This is so by how {' and '.join(sides)} recorded it." if sides else ""


def _cause(audit: Audit, name: str) -> str:
    """Whose fault it may be, and what the error gives away, as further sentences."""
    text = ""
    if audit.suspect is not None:
        text = (
            f" Either {name} computes that otherwise, or, if it has the original checkpoint, the fault is in the file: "
            f"{audit.suspect.describe()}.{_seen(audit)}"
        )
    return text + "".join(f" {sentence}" for sentence in _telltales(audit))


def _telltales(audit: Audit) -> list[str]:
    """What explains wrong tensors, or where they are wrong: each once, with the tensors that it is of."""
    groups: dict[tuple[str, ...], list[LocalError]] = {}
    for local in audit.wrong:
        if local.telltale is not None:
            found = local.explanation
            groups.setdefault((local.telltale,) if found is None else tuple(one.words for one in found.candidates), []).append(local)
    sentences = [_telltale(group) for group in list(groups.values())[:NAMED]]
    if len(groups) > NAMED:
        sentences.append(f"{len(groups) - NAMED} more explanations are in the table.")
    return sentences


def _telltale(group: Sequence[LocalError]) -> str:
    """One explanation of several tensors, with the largest error that it leaves."""
    by_stage: dict[tuple[int, str], list[LocalError]] = {}
    for local in group:
        by_stage.setdefault((local.key.step, local.key.stage), []).append(local)
    labels = [named(one) for one in by_stage.values()]
    where = joined([*labels[:NAMED], *([f"{len(labels) - NAMED} more"] if len(labels) > NAMED else [])])
    worst = max(group, key=lambda local: 0.0 if local.explanation is None else local.explanation.first.error)
    return f"At {where} {worst.telltale}."


def _cause_of_both(a: Audit, b: Audit) -> str:
    suspect = a.suspect or b.suspect
    if suspect is None:
        return ""
    return f" If they have the original checkpoint, the fault is in {suspect.file}: {suspect.describe()}.{_seen(a if a.suspect else b)}"


def _seen(audit: Audit) -> str:
    """What a look at the suspected weights found, as further sentences."""
    return "" if audit.suspect is None else "".join(f" In the file, {found}." for found in audit.suspect.seen)


def places(wrong: Sequence[LocalError], other: Audit | None = None, other_name: str = "") -> str:
    """The stages of ``wrong``, runs of layers together, each with its error, and what the other side's is there."""
    groups: dict[tuple[int, str], list[LocalError]] = {}
    for local in wrong:
        step, _, stage = local.key
        groups.setdefault((step, stage), []).append(local)
    texts = [_place(group, other, other_name) for group in list(groups.values())[:NAMED]]
    if len(groups) > NAMED:
        texts.append("1 more stage" if len(groups) == NAMED + 1 else f"{len(groups) - NAMED} more stages")
    return joined(texts)


def _place(group: Sequence[LocalError], other: Audit | None, other_name: str) -> str:
    first, text = group[0], named(group)
    nonfinite = isinstance(first.metrics, TensorMetrics) and first.metrics.mismatched_nonfinite
    facts = [f"local error {first.error:.1e}" if first.error and not nonfinite else first.reason or ""]
    theirs = other.by_key.get(first.key) if other is not None else None
    if theirs is not None and theirs.error is not None:
        facts.append(f"{other_name} {theirs.error:.0e}" if theirs.error else f"{other_name} 0")
    between = [name for name in first.region[:-1] if "." in name]
    if first.sources and len(between) > 1:
        facts.append(f"replayed from {first.sources[-1].in_step_label} on")
    return f"{text} ({'; '.join(fact for fact in facts if fact)})"


def _rest(audit: Audit) -> str:
    """What becomes of the tensors after the first wrong ones."""
    first = audit.wrong[0].key
    after = [local for local in audit.locals[[local.key for local in audit.locals].index(first) + 1 :] if local.state is LocalState.RIGHT]
    if not after:
        return "nothing after it was replayed"
    return (
        "the other tensor after it follows from its inputs"
        if len(after) == 1
        else f"the other {len(after)} tensors after it follow from their inputs"
    )


def _tally(verdicts: Mapping[Place, Verdict]) -> str:
    """How many tensors are wrong, and how many more differ for it; the same numbers as in tables, page and graph."""
    wrong = sum(verdict.is_wrong for verdict in verdicts.values())
    follows = sum(verdict is Verdict.FOLLOWS for verdict in verdicts.values())
    text = f"{wrong} of {len(verdicts)} tensors {'is' if wrong == 1 else 'are'} wrong"
    if not follows:
        return text
    return f"{text}, {follows} more differ{'s' if follows == 1 else ''} and follow{'s' if follows == 1 else ''} from what is wrong"


def _broken(audit: Audit) -> str:
    return "" if audit.broken is None else f", but {audit.broken}"


def misshapen(audit: Audit) -> str:
    """Which tensors are of another size than the model's, as the rest of a sentence; nothing where there is none."""
    if not audit.misshapen:
        return ""
    first, others = audit.misshapen[0], len(audit.misshapen) - 1
    more = f", and {others} more" if others else ""
    return f"; of another shape is {first.label} ({first.reason}){more}"


def overflowing(audit: Audit) -> str:
    """What runs out of the range of the trace's numbers, as the rest of a sentence; nothing where nothing does."""
    if not audit.overflowing:
        return ""
    first, others = audit.overflowing[0], len(audit.overflowing) - 1
    more = f", and {others} more" if others else ""
    return f"; neither right nor wrong is {first.label} ({first.reason}){more}"


def _unknown(audit: Audit) -> str:
    unknown = [local for local in audit.locals if local.state is LocalState.UNKNOWN and local.overflows is None]
    if not unknown:
        return ""
    return Message(f"; {len(unknown)} could not be replayed, the first, {unknown[0].label}, because ", unknown[0].reason or "")


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
