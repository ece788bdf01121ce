"""Several texts one after the other, or one beside its padding: a trace of a packed batch is audited text by text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import numpy as np

from aprgraph.graph.words import and_more, counted, joined, runs
from aprgraph.runtime.blame.local_errors import Audit
from aprgraph.runtime.blame.recorded import PromptTokens
from aprgraph.runtime.blame.sentences import audit_sentence
from aprgraph.runtime.diff.caveats import Caveat
from aprgraph.runtime.diff.side_names import name_of
from aprgraph.runtime.readings.text_alone import TextAlone, has_positions
from aprgraph.runtime.trace.reader import Trace

#: Audits a trace of a prompt of these tokens.
AuditText = Callable[[Trace, PromptTokens], Audit]
_ATTENTION = {"attn_scores", "attn_softmax", "attention"}
_NAMED = 4


def texts_apart(found: Audit, trace: Trace, tokens: PromptTokens, audit: AuditText) -> Audit:
    """``found``, or the audit of one of the texts that ``trace`` holds one after the other, if they explain it.

    They are where RoPE counts from 0 on, position by position, and explain a trace where attention is wrong too, and not of them alone.
    Positions of none of them are padding. The text that is shown is the first that something is wrong with, else the first.
    """
    counted_so = {one.explanation.first.counts for one in found.wrong if one.key.step == 0 and one.explanation is not None} - {()}
    if len(counted_so) != 1 or _ATTENTION.isdisjoint(one.key.stage for one in found.wrong) or not has_positions(trace):
        return found
    counts = counted_so.pop()
    texts = _texts(counts)
    if not texts or sum(map(len, texts)) == len(texts[0]) == len(counts):
        return found
    parts = [
        audit(
            TextAlone(trace, text.start, text.stop, len(counts), is_last=text is texts[-1]),
            None if tokens is None else tuple(tokens)[text.start : text.stop],
        )
        for text in texts
    ]
    if not {one.key for part in parts for one in part.wrong} < {one.key for one in found.wrong}:
        return found
    which = next((index for index, part in enumerate(parts) if part.wrong), 0)
    words = [f"positions {text.start} to {text.stop - 1}" for text in texts[:_NAMED]]
    apart = f", each audited alone; this is of the {'first' if not which else f'{which + 1}.'}" if len(texts) > 1 else ""
    rest = sorted(set(range(len(counts))).difference(*texts))
    beside = f"; what is in none of them, positions {runs(np.array(rest), _NAMED)}, is taken for padding" if rest else ""
    note = (
        f"{name_of(str(trace.directory))}: by RoPE's positions and by what attention sees it holds {counted(len(texts), 'text')}, at "
        f"{joined(words)}{and_more(texts[_NAMED:])}{apart}{beside}"
    )
    shown = replace(parts[which], notes=(*parts[which].notes, Caveat(note)))
    return replace(shown, sentence=audit_sentence(shown))


def _texts(counts: tuple[int, ...]) -> list[range]:
    """The runs of two positions or more that are counted from 0 on."""
    starts = np.arange(len(counts)) - np.array(counts)
    found = []
    for start, run in groupby(range(len(counts)), key=lambda index: int(starts[index])):
        places = list(run)
        if places[0] == start and len(places) > 1:
            found.append(range(places[0], places[-1] + 1))
    return found
