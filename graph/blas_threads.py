"""Keeps NumPy's BLAS to one thread where this package multiplies in threads of its own.

OpenBLAS has one set of threads for all callers: two that multiply at once wait for each other, and its threads spin meanwhile, which took
five times the processor time of the products themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

#: As NumPy's wheels have the names, and as distributions build them.
_NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


class _Limit:
    """How many blocks there are that want one thread, and how many threads there were before the first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.before = 0


_limit = _Limit()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """In the block NumPy multiplies in the thread that calls it. Of a BLAS other than OpenBLAS nothing is changed."""
    found = _functions()
    if found is None:
        yield
        return
    get, set_to = found
    with _limit.lock:
        if not _limit.blocks:
            _limit.before = get()
            set_to(1)
        _limit.blocks += 1
    try:
        yield
    finally:
        with _limit.lock:
            _limit.blocks -= 1
            if not _limit.blocks:
                set_to(_limit.before)


def keep_one_blas_thread() -> None:
    """Have NumPy multiply in the thread that calls it, for as long as this process lives: it is one of several on its machine."""
    found = _functions()
    if found is not None:
        found[1](1)


@cache
def _functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """OpenBLAS's functions that get and set the number of its threads, in the library that NumPy is linked with."""
    try:
        # A library's names are looked up in those that it depends on too.
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]  # noqa: SLF001 -- where it is linked
    except (AttributeError, OSError):
        return None
    for name in _NAMES:
        get = getattr(library, name.format("get"), None)
        set_to = getattr(library, name.format("set"), None)
        if get is not None and set_to is not None:
            get.restype, set_to.argtypes, set_to.restype = ctypes.c_int, (ctypes.c_int,), None
            return get, set_to
    return None
