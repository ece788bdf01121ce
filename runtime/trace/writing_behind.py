"""Tensors are written while the next ones are computed: copying one into the system's cache takes as long as many a stage, and so
does making a file of a small one.
"""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.errors import TraceError
from aprgraph.graph.threads import threads
from aprgraph.runtime.trace.aprt import F32, write_aprt

#: Bytes of tensors that are handed to a thread by themselves, and that may be on their way at once: copies, for the next stage has the
#: memory of a value.
_LEAST, _MOST = 1 << 18, 1 << 27
#: Smaller ones are handed over together, so many at most, or so many bytes: to hand one over takes as long as to make its file.
_TOGETHER, _BYTES_TOGETHER = 64, 1 << 21
#: Files that are written at once; one file is written by one thread after the other, whatever one does.
_FILES = 2
#: The path, the layer and the elements of a tensor.
_Tensor = tuple[str, int | None, F32]


@dataclass
class _Job:
    """``tensors`` that a thread writes: ``nbytes`` of copies, and the ``memory`` of a large one, which is used again."""

    tensors: list[_Tensor]
    written: Future[None]
    nbytes: int
    memory: F32 | None


class WritingBehind:
    """Writes APRT files by threads, in the order in which they come."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: deque[_Job] = deque()
        #: Memory of what has been written, for new memory costs as much as the copy.
        self._spare: list[F32] = []
        #: Copies of small tensors that are not handed over yet, and their bytes.
        self._small: list[_Tensor] = []
        self._small_bytes = 0

    def write(self, path: str, layer: int | None, values: F32) -> None:
        """As ``write_aprt``: now, if the tensor is very large, else while other things are done.

        Raises TraceError, perhaps of an earlier tensor.
        """
        if values.nbytes > _MOST:
            write_aprt(path, layer, values)
        elif values.nbytes < _LEAST:
            self._small.append((path, layer, values.copy()))
            self._small_bytes += values.nbytes
            if len(self._small) >= _TOGETHER or self._small_bytes >= _BYTES_TOGETHER:
                self._hand_over_small()
        else:
            memory = self._memory(values.size)
            copy = memory[: values.size]
            np.copyto(copy, values.reshape(-1))
            self._hand_over([(path, layer, copy)], memory.nbytes, memory)

    def wait(self) -> None:
        """Until all is written. Raises TraceError for the first tensor that could not be."""
        self._hand_over_small()
        while self._under_way:
            self._finish_oldest()

    def stop(self) -> None:
        """Write no more large tensors than have begun, and no more files at all where one cannot be written. What is small is written."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        small = [one for job in self._under_way if job.memory is None and job.written.cancelled() for one in job.tensors]
        with contextlib.suppress(TraceError):
            _write([*small, *self._small])
        self._under_way.clear()
        self._spare.clear()
        self._small.clear()

    def _hand_over_small(self) -> None:
        if not self._small:
            return
        self._make_room(self._small_bytes)
        self._hand_over(self._small, self._small_bytes)
        self._small, self._small_bytes = [], 0

    def _hand_over(self, tensors: list[_Tensor], nbytes: int, memory: F32 | None = None) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(_FILES, threads()), "aprgraph-writing")
        self._under_way.append(_Job(tensors, self._pool.submit(_write, tensors), nbytes, memory))

    def _finish_oldest(self) -> None:
        job = self._under_way.popleft()
        job.written.result()
        if job.memory is not None:
            self._spare.append(job.memory)

    def _memory(self, count: int) -> F32:
        """Room for ``count`` elements: of a tensor that has been written, where one was not much larger."""
        self._make_room(4 * count)
        found = next((index for index, memory in enumerate(self._spare) if count <= memory.size <= 2 * count), None)
        if found is not None:
            return self._spare.pop(found)
        while self._spare and self._taken() + 4 * count > _MOST:
            self._spare.pop(0)
        return np.empty(count, np.float32)

    def _make_room(self, nbytes: int) -> None:
        """Wait until so many bytes more may be on their way, and look at what has been written by now."""
        while self._under_way and (self._under_way[0].written.done() or self._taken() + nbytes > _MOST):
            self._finish_oldest()

    def _taken(self) -> int:
        """Bytes of all copies that were handed over, and of memory that is kept."""
        return sum(memory.nbytes for memory in self._spare) + sum(job.nbytes for job in self._under_way)


def _write(tensors: list[_Tensor]) -> None:
    for path, layer, values in tensors:
        write_aprt(path, layer, values)
