"""Pieces of a tensor decoded, multiplied or measured by all processors: NumPy lets other threads run while it computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np

from aprgraph.graph.blas_threads import one_blas_thread

Piece = TypeVar("Piece")
Result = TypeVar("Result")

#: Each thread has the memory of a piece, and beyond so many Python's own lock is what they wait for.
_MOST = 8
_NAME = "aprgraph-pieces"
#: Products of which handing one piece to a thread takes as long as multiplying all.
_FEW_PRODUCTS = 1 << 18
#: Of a process that is one of several on its machine: its share (``limit_threads``).
_shares: list[int] = []


@cache
def _pool(_process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), _NAME)


def threads() -> int:
    """How many pieces are worked on at once."""
    return max(1, min(_MOST, len(os.sched_getaffinity(0)), *_shares))


def limit_threads(share: int) -> None:
    """Work on at most ``share`` pieces at once from now on. To be called before the first of them."""
    _shares[:] = [share]


def in_threads(function: Callable[[Piece], Result], pieces: Iterable[Piece], *, products: int | None = None) -> Iterator[Result]:
    """What a function gives of each piece, in their order, with few more pieces begun than there are threads.

    The first is done here: it makes what files make once of a tensor. ``function`` may not call this function. NumPy's
    errors are treated in it as they are where this is called. Where all pieces are so many ``products``, and these few, all are done here.
    """
    if (products is not None and products <= _FEW_PRODUCTS) or threads() == 1:
        with one_blas_thread():  # the products have the same bits then
            yield from map(function, pieces)
        return
    rest = iter(pieces)
    told, call = np.geterr(), np.geterrcall()

    def with_errors(piece: Piece) -> Result:
        with np.errstate(**told) if call is None else np.errstate(call=call, **told):
            return function(piece)

    begun: deque[Future[Result]] = deque()
    with one_blas_thread():
        try:
            for first in islice(rest, 1):
                yield function(first)
            for piece in rest:
                begun.append(_pool(os.getpid()).submit(with_errors, piece))  # a forked process has no threads
                if len(begun) > threads():
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:  # one has failed, or no more are asked for
                future.cancel()
