"""Tensors that stay as they are, written without a copy, many at a time, while nothing is computed.

To write them beside a computation on the same processors takes longer: its threads wait for each other at the end of each kernel, so
that one that has to share a processor holds all of them up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.trace.aprt import F32, write_aprt

#: The path of a file, the layer and the elements of its tensor.
ToWrite = tuple[str, int | None, F32]
#: Writes files, each as ``write_aprt`` does. Raises TraceError for the first that cannot be; later ones may not be written then.
WriteFiles = Callable[[Sequence[ToWrite]], None]

#: So many tensors are held at most before they are written, or so many bytes: enough that each thread has a large one.
_COUNT, _BYTES = 128, 1 << 26
#: Larger ones are not written after the end.
_SMALL = 1 << 18


def write_each(tensors: Sequence[ToWrite]) -> None:
    """Write one file after the other. Raises TraceError."""
    for path, layer, values in tensors:
        write_aprt(path, layer, values)


class WritingBetween:
    """Has APRT files written of values that nobody changes as long as they are held."""

    def __init__(self, write_files: WriteFiles) -> None:
        self._write_files = write_files
        self._held: list[ToWrite] = []
        self._nbytes = 0

    def write(self, path: str, layer: int | None, values: F32) -> None:
        """As ``write_aprt``, now or with later ones. Raises TraceError, perhaps of an earlier tensor."""
        self._held.append((path, layer, values))
        self._nbytes += values.nbytes
        if len(self._held) >= _COUNT or self._nbytes >= _BYTES:
            self.wait()

    def wait(self) -> None:
        """Until all is written. Raises TraceError for a tensor that could not be; others may not have been written then."""
        held, self._held, self._nbytes = self._held, [], 0
        if held:
            self._write_files(held)

    def stop(self) -> None:
        """Write what is held and small, and no more files at all where one cannot be written."""
        self._held = [tensor for tensor in self._held if tensor[2].nbytes < _SMALL]
        with contextlib.suppress(TraceError):
            self.wait()
