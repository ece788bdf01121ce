"""A side whose tokens nobody knows, beside one whose manifest names them: its own embedding says whether they are the same."""

from __future__ import annotations

from collections.abc import Callable

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.stages import EMBEDDING
from aprgraph.runtime.blame.local_errors import Audit, LocalState
from aprgraph.runtime.blame.recorded import PromptTokens, tokens_of
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings import TraceAsRead
from aprgraph.runtime.trace.reader import Trace

_EMBEDDING = Place(0, 0, EMBEDDING)


#: Audits a trace on tokens.
AuditOn = Callable[[Trace, PromptTokens], Audit]


def tokens_of_sides(a: Trace, b: Trace, given: PromptTokens, audits: tuple[AuditOn, AuditOn]) -> tuple[PromptTokens, PromptTokens]:
    """The tokens that each side is replayed on: as ``given``, else those of its own manifest, else the other side's.

    The other side's are taken only where the embedding that this one recorded is right by them, as it stands or as it is to be read; so
    tokens that nobody knows accuse nobody. ``audits`` audit A and B.
    """
    if given is not None:
        return given, given
    known = tokens_of(a, None), tokens_of(b, None)
    return _known_or_confirmed(a, known[0], known[1], audits[0]), _known_or_confirmed(b, known[1], known[0], audits[1])


def _known_or_confirmed(trace: Trace, own: PromptTokens, other: PromptTokens, audit: AuditOn) -> PromptTokens:
    if own is not None or other is None or _EMBEDDING not in trace:
        return own
    first_layer = TraceAsRead(trace, places={entry.key: None for entry in trace.entries if (entry.step, entry.layer) != (0, 0)})
    try:
        found = audit(first_layer, other)
    except AprgraphError:  # of another number of positions, or of another model: not the same tokens
        return None
    local = found.by_key.get(_EMBEDDING)
    return other if local is not None and local.state is LocalState.RIGHT else None
