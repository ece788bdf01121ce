"""What becomes of memory that is freed: by the C library, for commands that make and drop large arrays all the time, and by Python,
for those that make an object or some of every tensor and keep them.
"""

from __future__ import annotations

import ctypes
import gc

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


def look_seldom_for_cycles() -> None:
    """Let 50,000 new objects, not 700, start the search for those that refer to each other alone: of traces of 50,000 tensors each search
    finds nothing, and all of them take a sixth of the time. Arrays go with their last reference, without a search.
    """
    gc.set_threshold(50_000, 20, 50)
