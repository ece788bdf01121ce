"""A trace as it is to be read: its tensors in the places and in the form of the stage table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.reading import Reading
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.statistics import Statistics


class TraceAsRead(Trace):
    """``trace`` with some of its tensors in other ``places``, and some under their readings.

    ``places`` maps the key of an entry to the key that it is to be taken for, None where it is to be left out. ``readings``
    maps keys of the result to the reading and the shape that it holds for, and ``shapes`` to the shape that comes of it,
    where that is another one. ``extra`` takes the place of that of its TraceInfo.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        places: Mapping[Place, Place | None] | None = None,
        readings: Mapping[Place, tuple[Reading, tuple[int, ...]]] | None = None,
        shapes: Mapping[Place, tuple[int, ...]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        moved = {entry.key: entry.key if places is None else places.get(entry.key, entry.key) for entry in trace.entries}
        self._originals = {target: entry for entry in trace.entries if (target := moved[entry.key]) is not None}
        self._readings = dict(readings or {})
        self._trace = trace
        other = dict(shapes or {})
        entries = [
            replace(entry, step=key.step, layer=key.layer, stage=key.stage, shape=other.get(key, entry.shape))
            for key, entry in self._originals.items()
        ]
        info = trace.info if trace.info is None or extra is None else replace(trace.info, extra=extra)
        super().__init__(trace.directory, entries, info, trace.unread, has_manifest=trace.has_manifest)
        self.left_out, self.read_as, self.regrouped = trace.left_out, trace.read_as, trace.regrouped

    def load(self, entry: TraceEntry) -> F32:
        """The tensor of ``entry`` as it is to be read, in the entry's shape; see ``Trace.load``."""
        return self._as_read(self._trace.load(self._originals[entry.key]), entry)

    def load_unverified(self, entry: TraceEntry) -> F32:
        """As ``load``; see ``Trace.load_unverified``."""
        return self._as_read(self._trace.load_unverified(self._originals[entry.key]), entry)

    def is_to_be_described(self, entry: TraceEntry) -> bool:
        """See ``Trace.is_to_be_described``: of what has a reading other values are described."""
        return entry.key not in self._readings and self._trace.is_to_be_described(self._originals[entry.key])

    def settle(self, entry: TraceEntry, values: F32, found: Statistics | None = None) -> None:
        """See ``Trace.settle``."""
        self._trace.settle(self._originals[entry.key], values, found)

    def note_described(self, entry: TraceEntry) -> None:
        """See ``Trace.note_described``."""
        self._trace.note_described(self._originals[entry.key])

    def _as_read(self, values: F32, entry: TraceEntry) -> F32:
        if entry.key not in self._readings:
            return values.reshape(entry.shape)
        reading, shape = self._readings[entry.key]
        return reading.restore(values.reshape(shape)).reshape(entry.shape)
