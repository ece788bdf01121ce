"""What becomes of memory that is freed: by the C library, for commands that make and drop large arrays all the time, and by Python."""

from __future__ import annotations

import gc

#: Numbers of mallopt(3) of glibc: bytes at the top of the heap from which on they are given back, and the size of an
#: allocation from which on it is mapped by itself; the largest that glibc takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _MAPPED = 1 << 28, 1 << 25


def keep_freed_memory() -> None:
    """Keep what is freed for the next array, up to 256 MB: mapping pages again costs threads more than they compute.

    Of other C libraries than glibc nothing is asked.
    """
    import ctypes  # noqa: PLC0415 -- which not every command needs

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _MAPPED)


def look_seldom_for_cycles() -> None:
    """Let 50,000 new objects, not 700, start the search for those that refer to each other alone.

    It finds nothing in modules that are imported, nor in traces of 50,000 tensors, and takes a tenth of a start, a sixth of
    a comparison. Arrays go with their last reference, without a search.
    """
    gc.set_threshold(50_000, 20, 50)
