"""The sentence that a person wants to read first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aprgraph.graph.message import Message, join_messages
from aprgraph.graph.words import as_sentence, joined
from aprgraph.runtime.blame.conventions import convention_clauses
from aprgraph.runtime.blame.local_errors import Audit, LocalError, LocalState, Verdict, named
from aprgraph.runtime.blame.telltales import telltales
from aprgraph.runtime.blame.weight_share import OtherWeights
from aprgraph.runtime.diff.graph_differences import GraphDifferences
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.place import Place
from aprgraph.runtime.place_names import NAMED, named_together


def audit_sentence(audit: Audit) -> str:
    """What an audit found."""
    if not audit.replayed and audit.misshapen:
        return Message(f"{audit.name}: not of the model's shapes, and nothing could be replayed", _asides(audit), ".")
    if not audit.replayed:
        why = audit.locals[0].reason if audit.locals else "it holds no stage of the model"
        return Message(f"{audit.name}: nothing could be replayed: ", why or "", ".")
    aside = Message(_broken(audit), _asides(audit))
    if not audit.wrong:
        explains = Message(f"{audit.name}: {extent_of_right(audit)}, {explained(audit)}", aside, ".")
        return join_messages(" ", [explains, *map(as_sentence, convention_clauses(audit)), *_known(audit, is_right=True)])
    if audit.other_model is not None:
        other = Message(f"{audit.name}: {audit.other_model.sentence}", aside, ".")
        return join_messages(" ", [other, *_known(audit, is_right=False)])
    verdict = "wrong" if audit.suspect is None else f"not a run of {audit.suspect.file}"
    wrong = Message(f"{audit.name}: {verdict} at {places(audit.wrong)}; {rest_of(audit)}", aside, f".{_cause(audit, audit.name)}")
    return join_messages(" ", [wrong, *map(as_sentence, convention_clauses(audit)), *_known(audit, is_right=False)])


def extent_of_right(audit: Audit) -> str:
    """``right``, and how far that goes."""
    extents = [one.extent for one in audit.reservations if one.extent is not None]
    how_far = f" as far as {joined(extents)}{', which is too little to go by' if audit.is_too_little else ''}" if extents else ""
    verdict = "not of the model's shapes" if audit.misshapen else f"right{how_far}"
    return f"{verdict}, by how it was recorded" if audit.is_read_otherwise and not audit.misshapen else verdict


def explained(audit: Audit) -> str:
    """``the model explains all 51 tensors that could be replayed``."""
    tensors = "the one tensor" if audit.replayed == 1 else f"all {audit.replayed} tensors"
    return f"the model explains {tensors} that could be replayed"


def _known(audit: Audit, *, is_right: bool) -> list[str]:
    """What else has to be known of the verdict, as sentences."""
    return [as_sentence(one.sentence) for one in audit.reservations if is_right or not one.only_if_alike]


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


def whose_fault(
    report: DiffReport, a: Audit, b: Audit, verdicts: Mapping[Place, Verdict], graphs: GraphDifferences | None = None
) -> tuple[str, bool]:
    """Who is wrong and where, or why nobody is; and whether what the two say of each other is to be said before."""
    names = report.names
    sides = [(side, audit, other) for side, audit, other in (("A", a, b), ("B", b, a)) if audit.wrong]
    strangers = [(side, audit) for side, audit, _ in sides if audit.other_model is not None]
    if strangers:
        return _of_another_model(report, strangers), False
    if len(sides) == 1:
        (side, audit, other) = sides[0]
        theirs = names.of("B" if side == "A" else "A")
        verdict = "wrong" if audit.suspect is None else f"not a run of {audit.suspect.file}"
        where = places(audit.wrong, other, theirs)
        aside = Message(tally_in_words(verdicts), _asides(audit))
        return Message(f"{names.of(side)} is {verdict} at {where}; ", aside, f".{_cause(audit, names.of(side))}"), False
    if sides:
        if agree_and_are_wrong(report, a, b):
            both = f"{names.of('A')} and {names.of('B')}"
            agree = f"{both} agree, and both are wrong at {places(a.wrong)}: neither is what the model computes."
            return f"{agree}{_cause_of_both(a, b)}", False
        where = f"{names.of('A')} at {places(a.wrong)}; {names.of('B')} at {places(b.wrong)}"
        return f"Both are wrong: {where}.{_cause_of_both(a, b)}", False
    if not a.replayed and not b.replayed:
        return Message("Which side is wrong cannot be said: ", _why(a), "."), True
    if not report.diverged:
        return f"The model explains {_counts(report, a, b)}.{_read_otherwise(report, a, b)}", True
    by_elimination = [key for key, verdict in verdicts.items() if verdict in (Verdict.A_WRONG, Verdict.B_WRONG)]
    if by_elimination:
        side = "A" if verdicts[by_elimination[0]] is Verdict.A_WRONG else "B"
        label = report.row(by_elimination[0]).label
        right = f"{names.of(side)} is wrong at {label}: the other side is right there, and what both are computed from agrees "
        return Message(right, "(it could not be replayed: ", _reason_of(a if side == "A" else b, by_elimination[0]), ")."), False
    overflow = next((one for audit in (a, b) for one in audit.overflowing), None)
    if overflow is not None:
        return f"Neither side is blamed at {overflow.label}: {overflow.reason}.", True
    other_graph = next((key for key, verdict in verdicts.items() if verdict is Verdict.OTHER_GRAPH), None)
    if other_graph is not None and graphs is not None:
        row = report.row(other_graph)
        return (
            f"Neither side is wrong: each is right by its own graph, and the two ran different ones. They part at {row.label} "
            f"({row.reason}), where {'; '.join(difference.sentence for difference in graphs.computed[:NAMED])}."
        ), False
    if Verdict.OTHER_WEIGHTS in verdicts.values() and Verdict.UNKNOWN not in verdicts.values():
        return f"Neither side is wrong: each is right by its own model, {_counts(report, a, b)}.", True
    first = next((key for key, verdict in verdicts.items() if verdict in (Verdict.ADDS_UP, Verdict.UNKNOWN) and _is_off(report, key)), None)
    if first is not None and verdicts[first] is Verdict.ADDS_UP:
        row = report.row(first)
        return (
            f"Neither side is wrong at any stage: each is within the tolerance of its own arithmetic, given its inputs, and the "
            f"differences add up to more than the limit at {row.label} ({row.reason})."
        ), False
    return Message("Which side is wrong cannot be said: ", _why(a, b), "."), True


def agree_and_are_wrong(report: DiffReport, a: Audit, b: Audit) -> bool:
    """Whether both sides are wrong at the same tensors, and do not differ."""
    return [local.key for local in a.wrong] == [local.key for local in b.wrong] and not report.diverged


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


def is_explained(audit: Audit) -> bool:
    """Whether mistakes explain all that is wrong: what else could be at fault is then superfluous."""
    return all(one.explanation is not None for one in audit.wrong)


def _cause(audit: Audit, name: str) -> str:
    """What the error gives away, and what of the file may be at fault in place of the trace, as further sentences."""
    said = "".join(f" {sentence}" for sentence in _telltales(audit))
    if audit.suspect is None:
        return said
    if is_explained(audit):
        return f"{said}{_guessed(audit)}{_seen(audit)}"
    return (
        f" Either {name} computes that otherwise, or, if it has the original checkpoint, the fault is in the file: "
        f"{audit.suspect.describe()}.{_seen(audit)}{said}"
    )


def _telltales(audit: Audit) -> list[str]:
    """What explains wrong tensors, or where they are wrong, as sentences."""
    found = telltales(audit.wrong)
    sentences = [one.sentence for one in found[:NAMED]]
    if len(found) > NAMED:
        sentences.append(f"{len(found) - NAMED} more explanations are in the table.")
    return sentences


def _cause_of_both(a: Audit, b: Audit) -> str:
    suspect = a.suspect or b.suspect
    if suspect is None:
        return ""
    owner = a if a.suspect else b
    said = "".join(f" {sentence}" for sentence in _telltales(owner)) if is_explained(owner) else ""
    return f"{said} If they have the original checkpoint, the fault is in {suspect.file}: {suspect.describe()}.{_seen(owner)}"


def _seen(audit: Audit) -> str:
    """What a look at the suspected weights found, as further sentences."""
    return "" if audit.suspect is None else "".join(f" In the file, {found}." for found in audit.suspect.seen)


def _guessed(audit: Audit) -> str:
    """Which numbers the file does not say, as a further sentence: an explanation by another number may be of one of them."""
    guessed = () if audit.suspect is None else audit.suspect.guessed
    return f" The file does not say {joined(guessed)}." if guessed else ""


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


def rest_of(audit: Audit) -> str:
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


def tally_in_words(verdicts: Mapping[Place, Verdict]) -> str:
    """How many tensors are wrong, and how many more differ for it; the same numbers as in tables, page and graph."""
    wrong = sum(verdict.is_wrong for verdict in verdicts.values())
    follows = sum(verdict is Verdict.FOLLOWS for verdict in verdicts.values())
    text = f"{wrong} of {len(verdicts)} tensors {'is' if wrong == 1 else 'are'} wrong"
    if not follows:
        return text
    return f"{text}, {follows} more differ{'s' if follows == 1 else ''} and follow{'s' if follows == 1 else ''} from what is wrong"


def _broken(audit: Audit) -> str:
    return "" if audit.broken is None else f", but {audit.broken}"


def _asides(audit: Audit) -> Message:
    """What has another shape, overflows or could not be replayed, to follow a clause."""
    found = (misshapen(audit), overflowing(audit), undecided(audit), unknown(audit))
    return Message(*(part for one in found if one for part in ("; ", one)))


def misshapen(audit: Audit) -> str:
    """Which tensors are of another size than the model's, in a clause; nothing where there is none."""
    if not audit.misshapen:
        return ""
    first, others = audit.misshapen[0], len(audit.misshapen) - 1
    more = f", and {others} more" if others else ""
    return f"of another shape is {first.label} ({first.reason}){more}"


def overflowing(audit: Audit) -> str:
    """What runs out of the range of the trace's numbers, in a clause; nothing where nothing does."""
    if not audit.overflowing:
        return ""
    first, others = audit.overflowing[0], len(audit.overflowing) - 1
    more = f", and {others} more" if others else ""
    return f"neither right nor wrong is {first.label} ({first.reason}){more}"


def undecided(audit: Audit) -> str:
    """What was recorded otherwise or computed otherwise, in a clause; nothing where that is known of all."""
    if not audit.undecided:
        return ""
    first, where = audit.undecided[0], named_together(one.key for one in audit.undecided)
    return f"neither right nor wrong {'is' if len(audit.undecided) == 1 else 'are'} {where} ({first.reason})"


def unknown(audit: Audit) -> str:
    """What could not be replayed, and why, in a clause; nothing where all could."""
    left = [local for local in audit.locals if local.state is LocalState.UNKNOWN and not (local.overflows or local.either)]
    if not left:
        return ""
    return Message(f"{len(left)} could not be replayed, the first, {left[0].label}, because ", left[0].reason or "")


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
