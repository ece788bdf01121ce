"""Where the positions of a trace begin: a later part of a text, or a text behind padding, is audited once more as what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aprgraph.runtime.blame.local_errors import Audit
from aprgraph.runtime.blame.recorded import Beginning
from aprgraph.runtime.blame.sentences import audit_sentence
from aprgraph.runtime.diff.caveats import Caveat
from aprgraph.runtime.diff.side_names import name_of
from aprgraph.runtime.trace.manifest import PADDING
from aprgraph.runtime.trace.reader import Trace

#: Audits the trace with its positions beginning elsewhere.
AuditFrom = Callable[[Beginning], Audit]


def where_it_begins(found: Audit, trace: Trace, audit: AuditFrom) -> Audit:
    """``found``, or the audit of ``trace`` with positions that begin where RoPE counts from, if that explains it.

    Behind padding it does where nothing else is wrong: what attention sees does not depend on where positions begin. Without padding
    attention has to be wrong too, and of no mistake that is known: it reads keys of positions before, which were not recorded. Where it
    follows from the recorded keys alone, there were no others, and RoPE counts from elsewhere.
    """
    counted = {one.explanation.first.begins_at for one in found.wrong if one.key.step == 0 and one.explanation is not None} - {None}
    if len(counted) != 1:
        return found
    position = counted.pop() or 0
    is_padding = trace.info is not None and trace.info.extra.get(PADDING) == position
    if not is_padding and all(one.explanation is not None for one in found.wrong):
        return found
    again = audit(Beginning(position, is_padding))
    if not {one.key for one in again.wrong} < {one.key for one in found.wrong}:
        return found
    who = name_of(str(trace.directory))
    if is_padding:
        note = f"{who}: RoPE counts the positions from that of the first token behind the padding, {position}, which attention does not see"
    else:
        note = (
            f"{who}: RoPE counts the positions from {position}, and attention does not follow from the keys that were recorded: it is "
            "taken for a later part of a text; record those before it too, as steps"
        )
    again = replace(again, notes=(*again.notes, Caveat(note)))
    return replace(again, sentence=audit_sentence(again))
