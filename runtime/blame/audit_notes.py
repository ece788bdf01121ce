"""What an audit says beside its verdicts: of the model file, of what was recorded, and of what makes it less certain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aprgraph.graph.arguments import FINGERPRINT, TOKENS
from aprgraph.graph.sources.whole_digest import sampled_share
from aprgraph.graph.stages import is_logits
from aprgraph.graph.words import joined, listed
from aprgraph.runtime.blame.file_suspect import differs_unseen
from aprgraph.runtime.blame.local_errors import Audit
from aprgraph.runtime.blame.other_model import named_models
from aprgraph.runtime.blame.recorded import KEYS, Recorded, RecordedTensor
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.diff.caveats import Caveat
from aprgraph.runtime.diff.reservations import Reservation, one_position, unread_reservation
from aprgraph.runtime.trace.reader import Trace

#: The most tensors that a note names.
_NAMED = 3


def reservations_of_audit(found: Audit, recorded: Recorded, positions: Mapping[int, int]) -> Iterator[Reservation]:
    """What makes the verdict of an audit less certain; ``positions`` are those, by step, that tensors of one position alone are of."""
    tensors = [tensor for tensor in _tensors(recorded) if not is_logits(tensor.node.stage)]
    alone = sum(tensor.last_axis is not None for tensor in tensors)
    which = "one" if positions else "the last"
    for one in (
        unread_reservation(recorded.trace, found.name, found.replayed),
        one_position(recorded.prompt_length, recorded.steps),
        Reservation(f"of {alone} of {len(tensors)} tensors one position alone was recorded", f"{which} position shows")
        if 2 * alone > len(tensors)
        else None,
    ):
        if one is not None:
            yield one


def notes_on_the_file(trace: Trace, replayed: ReplayedModel, *, is_other: bool) -> Iterator[str]:
    """What is not known of the model file, or contradicts the manifest; ``is_other``: the trace is known to be of another model."""
    model = replayed.model
    fingerprint = trace.info.model.get("fingerprint") if trace.info is not None else None
    if model.held is not None:
        yield (
            f"the family {model.family.architecture!r} is not known here: stages are judged by the graph that "
            f"{model.held.holder} holds, and the metadata of {model.path} is not looked at"
        )
    if fingerprint is not None and fingerprint != replayed.fingerprint and not is_other:
        named, given = named_models(trace, model)
        from_file = f"{named}, " if named else ""
        yield Caveat(f"{trace.directory} was recorded from {from_file}another model file than {given} (the fingerprints differ)")
    elif differs_unseen(trace, replayed):
        yield Caveat(
            f"{trace.directory} was recorded from another model file than {model.path}: its weights differ where their common "
            "fingerprint does not look"
        )


def notes_on_the_recording(recorded: Recorded, positions: Mapping[int, int]) -> Iterator[str]:
    """What was recorded in part, or is not of the model; ``positions`` as in ``reservations_of_audit``."""
    directory, tensors = recorded.trace.directory, list(_tensors(recorded))
    if recorded.tokens is None:
        yield Caveat(f"the tokens of {directory} are not known, so its embedding is not checked; give them with ", TOKENS)
    of_text = [tensor.entry for tensor in tensors if tensor.of_text]
    if of_text:
        are_keys = all(entry.stage == KEYS for entry in of_text)
        what = "the KV cache" if are_keys else "all positions so far, as where there is no KV cache,"
        yield Caveat(
            f"{directory} holds {what} in place of {listed((entry.label for entry in of_text), _NAMED)}: the last rows, which are the "
            "step's, are taken, and those before are not checked"
        )
    alone = [tensor.entry.label for tensor in tensors if tensor.last_axis is not None and not is_logits(tensor.entry.stage)]
    if alone:
        others = [f"position {other}" for other in dict.fromkeys(positions.values())]
        which = f"which by the values is {joined(others)}, not the last" if others else "which is taken for the last"
        yield Caveat(f"{directory} holds one position only of {listed(alone, _NAMED)}, {which}: the others are not checked")
    if recorded.foreign:
        names = listed((entry.label for entry in recorded.foreign), _NAMED)
        yield Caveat(f"{directory} holds what the model has not: {names}")


def notes_on_the_fingerprint(found: Audit, trace: Trace, replayed: ReplayedModel) -> Iterator[str]:
    """How little is known of the file that something wrong is held against."""
    model = replayed.model
    info, share = trace.info, sampled_share(model.file)
    if info is None or "digest" in info.model or share == 1.0 or not any(one.weights for one in found.wrong):
        return  # of the header every byte is known
    if info.model.get("fingerprint") == replayed.fingerprint:
        yield Caveat(
            f"that {found.name} is a run of {model.path.name} is known by the header and {share:.2%} of the weights: a file "
            "that was changed since between these samples looks the same; a run with ",
            FINGERPRINT.given("full", "'full'"),
            " names every byte",
        )


def _tensors(recorded: Recorded) -> Iterator[RecordedTensor]:
    """What was recorded of the model's stages, step by step."""
    return (tensor for step in recorded.steps for tensor in recorded.of_step(step).values())
