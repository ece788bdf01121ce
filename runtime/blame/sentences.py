"""What an audit found, as sentences and clauses; the first is the one that a person wants to read first."""

from __future__ import annotations

from collections.abc import Sequence

from aprgraph.graph.message import Message, join_messages
from aprgraph.graph.words import as_sentence, joined
from aprgraph.runtime.blame.conventions import convention_clauses
from aprgraph.runtime.blame.local_errors import Audit, LocalError, LocalState, named
from aprgraph.runtime.blame.telltales import telltales
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.place_names import NAMED, named_together


def audit_sentence(audit: Audit) -> str:
    """What an audit found."""
    if not audit.replayed and audit.misshapen:
        return Message(f"{audit.name}: not of the model's shapes, and nothing could be replayed", asides(audit), ".")
    if not audit.replayed:
        why = audit.locals[0].reason if audit.locals else "it holds no stage of the model"
        return Message(f"{audit.name}: nothing could be replayed: ", why or "", ".")
    aside = Message(_broken(audit), asides(audit))
    if not audit.wrong:
        explains = Message(f"{audit.name}: {extent_of_right(audit)}, {explained(audit)}", aside, ".")
        return join_messages(" ", [explains, *map(as_sentence, convention_clauses(audit)), *_known(audit, is_right=True)])
    if audit.other_model is not None:
        other = Message(f"{audit.name}: {audit.other_model.sentence}", aside, ".")
        return join_messages(" ", [other, *_known(audit, is_right=False)])
    verdict = "wrong" if audit.suspect is None else f"not a run of {audit.suspect.file}"
    wrong = Message(f"{audit.name}: {verdict} at {places(audit.wrong)}; {rest_of(audit)}", aside, f".{cause(audit, audit.name)}")
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


def is_explained(audit: Audit) -> bool:
    """Whether mistakes explain all that is wrong: what else could be at fault is then superfluous."""
    return all(one.explanation is not None for one in audit.wrong)


def cause(audit: Audit, name: str) -> str:
    """What the error gives away, and what of the file may be at fault in place of the trace, as further sentences."""
    said = "".join(f" {sentence}" for sentence in explanations(audit))
    if audit.suspect is None:
        return said
    if is_explained(audit):
        return f"{said}{_guessed(audit)}{seen_in_file(audit)}"
    return (
        f" Either {name} computes that otherwise, or, if it has the original checkpoint, the fault is in the file: "
        f"{audit.suspect.describe()}.{seen_in_file(audit)}{said}"
    )


def explanations(audit: Audit) -> list[str]:
    """What explains wrong tensors, or where they are wrong, as sentences."""
    found = telltales(audit.wrong)
    sentences = [one.sentence for one in found[:NAMED]]
    if len(found) > NAMED:
        sentences.append(f"{len(found) - NAMED} more explanations are in the table.")
    return sentences


def seen_in_file(audit: Audit) -> str:
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


def _broken(audit: Audit) -> str:
    return "" if audit.broken is None else f", but {audit.broken}"


def asides(audit: Audit) -> Message:
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
