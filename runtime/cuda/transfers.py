"""Copies between a GPU and this machine, beside what the GPU computes.

Both ways go through page-locked buffers, two of each, which the GPU copies from and to by itself: while one is on its way, the
other is filled or read here. A tensor that comes down is held until it has come: its memory would else be given to the next.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.cuda.driver import Driver

#: How many downloads are on their way at most, when another one is begun.
PENDING = 2
#: Bytes of a weight that go up at once.
_PIECE = 32 << 20
#: Buffers begin at multiples of this, so that any dtype may lie anywhere in them that it would in a tensor of its own.
_ALIGNMENT = 256


class _Buffer:
    """Page-locked memory, and an event behind the copy that uses it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.event = driver.new_event()
        self._address, self._size = 0, 0

    def grow(self, nbytes: int) -> None:
        """Make room for ``nbytes``. What was there is lost."""
        if nbytes > self._size:
            self.free()
            self._address = self._driver.allocate_pinned(nbytes)
            self._size = nbytes

    def address(self, offset: int = 0) -> int:
        """Where the byte ``offset`` lies."""
        return self._address + offset

    def array(self, offset: int, dtype: str, shape: Sequence[int]) -> npt.NDArray[Any]:
        """The memory from ``offset`` on as an array."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        memory = (ctypes.c_char * nbytes).from_address(self._address + offset)
        return np.frombuffer(memoryview(memory), dtype).reshape(tuple(shape))

    def free(self) -> None:
        """Give the memory back."""
        if self._size:
            self._driver.free_pinned(self._address)
            self._address, self._size = 0, 0

    def close(self) -> None:
        """Give all of it back."""
        self.free()
        self._driver.free_event(self.event)


class _Download:
    """Tensors on their way into a buffer, at ``offsets``, and who is to receive them."""

    def __init__(self, tensors: Sequence[Any], offsets: Sequence[int], buffer: _Buffer, receive: Callable[..., None]) -> None:
        self.tensors, self.offsets, self.buffer, self.receive = tensors, offsets, buffer, receive

    def deliver(self) -> None:
        """Hand over the arrays, which have come."""
        self.receive(*(self.buffer.array(at, str(t.dtype), t.shape) for t, at in zip(self.tensors, self.offsets, strict=True)))


class Transfers:
    """The two ways. ``close`` when done; what had not been delivered then never is."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._stream = driver.new_stream()
        self._ready = driver.new_event()
        self._down = [_Buffer(driver) for _ in range(PENDING)]
        self._up = [_Buffer(driver), _Buffer(driver)]
        self._pending: list[_Download] = []
        self._next = 0

    def download(self, tensors: Sequence[Any], receive: Callable[..., None]) -> None:
        """Start to bring ``tensors`` down as the GPU has them now, and deliver what was started before the last call."""
        buffer = self._down[self._next]
        while any(download.buffer is buffer for download in self._pending):
            self._deliver_first()
        self._next = (self._next + 1) % PENDING
        offsets, size = [], 0
        for tensor in tensors:
            offsets.append(size)
            size += -(-_nbytes(tensor) // _ALIGNMENT) * _ALIGNMENT
        buffer.grow(size)
        # The copies wait for the kernels that are in the default stream now, and the kernels that follow do not wait for them.
        self._driver.record(self._ready)
        self._driver.stream_waits(self._stream, self._ready)
        for tensor, offset in zip(tensors, offsets, strict=True):
            self._driver.copy_down(buffer.address(offset), tensor.data_ptr(), _nbytes(tensor), self._stream)
        self._driver.record(buffer.event, self._stream)
        self._pending.append(_Download(tensors, offsets, buffer, receive))

    def _deliver_first(self) -> None:
        download = self._pending.pop(0)
        self._driver.wait(download.buffer.event)
        download.deliver()

    def wait(self) -> None:
        """Deliver all that was started."""
        while self._pending:
            self._deliver_first()

    def forget(self) -> None:
        """Deliver nothing of what was started."""
        while self._pending:
            self._driver.wait(self._pending.pop(0).buffer.event)

    def upload(self, array: npt.NDArray[Any], address: int) -> None:
        """Copy ``array`` (contiguous, wherever it lies) to the GPU's memory at ``address``; it is there for what is launched next.

        What was launched before still reads what was there.
        """
        source = array.reshape(-1).view(np.uint8)
        self._driver.record(self._ready)
        self._driver.stream_waits(self._stream, self._ready)
        waiting = [False, False]
        for number, start in enumerate(range(0, source.size, _PIECE)):
            piece, buffer = source[start : start + _PIECE], self._up[number % 2]
            if waiting[number % 2]:
                self._driver.wait(buffer.event)
            buffer.grow(min(source.size, _PIECE))
            buffer.array(0, "uint8", piece.shape)[:] = piece
            self._driver.copy_up(address + start, buffer.address(), piece.size, self._stream)
            self._driver.record(buffer.event, self._stream)
            waiting[number % 2] = True
        for buffer, waits in zip(self._up, waiting, strict=True):
            if waits:
                self._driver.wait(buffer.event)

    def close(self) -> None:
        """End the copies and give their memory back."""
        self.forget()
        for buffer in (*self._down, *self._up):
            buffer.close()
        self._driver.free_event(self._ready)
        self._driver.free_stream(self._stream)


def _nbytes(tensor: Any) -> int:
    return math.prod(int(dim) for dim in tensor.shape) * np.dtype(str(tensor.dtype)).itemsize
