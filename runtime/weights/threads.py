"""Pieces of a tensor measured by all processors: NumPy lets other threads run while it computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")

#: Each thread has the memory of a piece.
_MOST = 4


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), "aprgraph-weights")


def threads() -> int:
    """How many pieces are measured at once."""
    return max(1, min(_MOST, len(os.sched_getaffinity(0))))


def in_threads(function: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
    """What a function gives of each piece, in their order, with no more pieces begun than there are threads.

    The first is done here: it makes what files make once of a tensor.
    """
    rest = iter(pieces)
    first = next(rest, None)
    if first is None:
        return
    yield function(first)
    begun: deque[Future[Result]] = deque()
    for piece in rest:
        begun.append(_pool().submit(function, piece))
        if len(begun) > threads():
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
