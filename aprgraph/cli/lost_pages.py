"""A file that becomes shorter while it is read, or whose disk fails: one line, where the system would end the process without a word.

Files of weights and tensors are mapped into memory, so that there is no call that could fail. Where a page is not there any more, the
system sends SIGBUS to the thread that reads it. Python's own handlers run between two instructions, to which that thread never
comes; so the handler is a C function, made by ctypes, and what it says is found where the address lies (/proc/self/maps).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from typing import Any

from aprgraph.cli.leaving import end_process
from aprgraph.cli.terminal import printable

_EXIT_ERROR = 2
#: Of sigaction(2): the handler takes three arguments. Where siginfo_t has the address, on 64-bit Linux.
_SA_SIGINFO, _ADDRESS = 4, 16
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """struct sigaction of glibc and musl on 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@contextlib.contextmanager
def lost_pages_are_errors() -> Iterator[None]:
    """In the block, a page that is lost ends this process in order. For a process of our own."""
    sigaction: Any = getattr(ctypes.CDLL(None), "sigaction", None)
    if sigaction is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        yield
        return
    before = _Action()

    def handle(_number: int, info: int, _context: int) -> None:
        said = describe(ctypes.c_uint64.from_address(info + _ADDRESS).value)
        if said is None:  # nothing of ours: it happens again, and has its usual end
            sigaction(signal.SIGBUS, ctypes.byref(before), None)
            return
        end_process(_EXIT_ERROR, f"error: {said}")

    function = _Handler(handle)
    ours = _Action(handler=ctypes.cast(function, ctypes.c_void_p).value, flags=_SA_SIGINFO)
    sigaction(signal.SIGBUS, ctypes.byref(ours), ctypes.byref(before))
    try:
        yield
    finally:
        sigaction(signal.SIGBUS, ctypes.byref(before), None)


def describe(address: int) -> str | None:
    """What became of the file that is mapped at ``address``; None where none is."""
    # Of the line ends that Python knows the system writes a name's "\\n" otherwise, and its "\\r" as it is.
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            extent, _, start, _, _, *name = line.rstrip("\n").split(maxsplit=5)
            first, end = (int(part, 16) for part in extent.split("-"))
            if first <= address < end and name and name[0].startswith("/"):
                return _in_words(name[0], address - first + int(start, 16))
    return None


def _in_words(path: str, position: int) -> str:
    try:
        size: int | None = os.stat(path).st_size
    except OSError:
        size = None
    shown = printable(path)
    if size is not None and position >= size:
        return f"{shown}: became shorter while it was read (byte {position:,} of now {size:,}); run it again on a file that nobody changes"
    return f"{shown}: byte {position:,} can be read no more, as of a disk that fails or is full; check the disk, and run it again"
