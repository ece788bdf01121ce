"""Large tensors are written while the next ones are computed: to copy one into the system's cache takes as long as many a stage."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from aprgraph.graph.threads import threads
from aprgraph.runtime.trace.aprt import F32, write_aprt

#: Bytes of tensors from which on a thread pays, and that may be on their way at once: copies, for the next stage has the memory of a value.
LEAST, _MOST = 1 << 18, 1 << 27
#: Files that are written at once; one file is written by one thread after the other, whatever one does.
_FILES = 2


class WritingBehind:
    """Writes APRT files by threads, in the order in which they come."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        #: What is being written, and the memory of the copy; then memory of what has been, for new memory costs as much as the copy.
        self._under_way: deque[tuple[Future[None], F32]] = deque()
        self._spare: list[F32] = []

    def write(self, path: str, layer: int | None, values: F32) -> None:
        """As ``write_aprt``: now, if the tensor is small or very large, else while other things are done.

        Raises TraceError, perhaps of an earlier tensor.
        """
        if not LEAST <= values.nbytes <= _MOST:
            write_aprt(path, layer, values)
            return
        memory = self._memory(values.size)
        copy = memory[: values.size]
        np.copyto(copy, values.reshape(-1))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(_FILES, threads()), "aprgraph-writing")
        self._under_way.append((self._pool.submit(write_aprt, path, layer, copy), memory))

    def wait(self) -> None:
        """Until all is written. Raises TraceError for the first tensor that could not be."""
        while self._under_way:
            self._finish_oldest()

    def stop(self) -> None:
        """Write nothing more; what has begun is ended."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._under_way.clear()
        self._spare.clear()

    def _finish_oldest(self) -> None:
        future, memory = self._under_way.popleft()
        future.result()
        self._spare.append(memory)

    def _memory(self, count: int) -> F32:
        """Room for ``count`` elements: of a tensor that has been written, where one was not much larger."""
        while self._under_way and (self._under_way[0][0].done() or self._taken() + 4 * count > _MOST):
            self._finish_oldest()
        found = next((index for index, memory in enumerate(self._spare) if count <= memory.size <= 2 * count), None)
        if found is not None:
            return self._spare.pop(found)
        while self._spare and self._taken() + 4 * count > _MOST:
            self._spare.pop(0)
        return np.empty(count, np.float32)

    def _taken(self) -> int:
        """Bytes of all copies."""
        return sum(memory.nbytes for memory in (*self._spare, *(memory for _, memory in self._under_way)))
