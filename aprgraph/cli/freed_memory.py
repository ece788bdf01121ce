"""What the C library does with memory that is freed, for commands that make and drop large arrays all the time."""

from __future__ import annotations

import ctypes

#: Numbers of mallopt(3) of glibc: bytes at the top of the heap from which on they are given back, and the size of an
#: allocation from which on it is mapped by itself; the largest that glibc takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _MAPPED = 1 << 28, 1 << 25


def keep_freed_memory() -> None:
    """Keep what is freed for the next array, up to 256 MB: mapping pages again costs threads more than they compute.

    Of other C libraries than glibc nothing is asked.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _MAPPED)
