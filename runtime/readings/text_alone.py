"""One of several texts that lie one after the other in a trace, as a trace of its own."""

from __future__ import annotations

from dataclasses import replace

from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.padding import PaddedTensors, Padding
from aprgraph.runtime.trace.reader import Trace


class TextAlone(Trace):
    """The positions ``start`` to ``stop`` of ``trace``, the end exclusive, of a prompt of ``length``; tensors of the last position alone
    are of the text that ends there, and unread where none does (``is_last``). Generated tokens are left out.
    """

    def __init__(self, trace: Trace, start: int, stop: int, length: int, *, is_last: bool) -> None:
        prompt = [entry for entry in trace.entries if entry.step == 0 and entry.file is not None]
        self._trace, self._whole = trace, {entry.key: entry for entry in prompt}
        self._cut = PaddedTensors(Padding(start, stop, length), prompt)
        info = None if trace.info is None else replace(trace.info, tokens=trace.info.tokens[start:stop])
        unread = [*trace.unread, *(self._cut.hidden if is_last else ())]
        super().__init__(trace.directory, self._cut.entries, info, unread, has_manifest=trace.has_manifest)
        self.left_out, self.read_as, self.regrouped = trace.left_out, trace.read_as, trace.regrouped

    def load(self, entry: TraceEntry) -> F32:
        """The tensor of the text; see ``Trace.load``."""
        return self._cut.without(str(entry.file), lambda _: self._trace.load(self._whole[entry.key]))

    def load_unverified(self, entry: TraceEntry) -> F32:
        """As ``load``; see ``Trace.load_unverified``."""
        return self._cut.without(str(entry.file), lambda _: self._trace.load_unverified(self._whole[entry.key]))

    def is_to_be_described(self, _: TraceEntry) -> bool:
        """Never: the whole tensor is, where it is loaded."""
        return False


def has_positions(trace: Trace) -> bool:
    """Whether the shapes of all tensors of the prompt say where their positions are."""
    return all(
        len(entry.shape) == len(STAGE_BY_NAME[entry.stage].dims) or STAGE_BY_NAME[entry.stage].is_logits
        for entry in trace.entries
        if entry.step == 0
    )
