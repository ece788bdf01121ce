"""Keys that were recorded with each KV head several times, of which one was read: said in the audit of what was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aprgraph.runtime.blame.conventions import with_convention
from aprgraph.runtime.blame.local_errors import Audit
from aprgraph.runtime.blame.sentences import audit_sentence
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.repeats import REPEATS, repeats_in_words


def with_repeats(found: Audit, repeated: Sequence[Place]) -> Audit:
    """``found`` of a trace that recorded the tensors ``repeated`` with each KV head several times, of which one was read."""
    if not repeated:
        return found
    words = "it was recorded with each KV head as many times as query heads share it"
    read = with_convention(found, repeated, REPEATS, words, f"{repeats_in_words(repeated)}")
    return replace(read, sentence=audit_sentence(read))
