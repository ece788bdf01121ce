"""The mean over a row of what each column adds, by a block of threads."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cuda.emitter import THREADS, WARP, Emitter, get, put, registers, shared, sync_block
from aprgraph.codegen.tir import Expr, assign, f32, i64

#: Rows up to this long are summed by one warp.
_SHORT = 512


def threads_for(size: int) -> int:
    """How many threads sum a row of ``size`` columns."""
    return WARP if size <= _SHORT else THREADS


class RowMean:
    """Means over the ``size`` columns of a row, for all threads of a block of ``threads_for(size)``."""

    def __init__(self, emitter: Emitter, thread: Expr, size: int) -> None:
        self._emitter, self._thread, self._size, self._threads = emitter, thread, size, threads_for(size)

    def of(self, term: Callable[[Expr, Expr], Expr], count: int | None = None) -> Expr:
        """The sum of what ``term(column, total)`` adds, by ``count``, or the number of columns.

        In buffers of its own: others may be read still.
        """
        total, sums = registers(1), shared(self._threads // WARP)
        put(total, f32(0.0))
        with T.serial(i64(0), i64(-(-self._size // self._threads))) as step:
            column = step * self._threads + self._thread
            with T.If(column < self._size), T.Then():
                put(total, term(column, get(total)))
        self._emitter.warp_sum(total)
        assign(sums, get(total), [T.floordiv(self._thread, i64(WARP))])
        sync_block()
        put(total, f32(0.0))
        for warp in range(self._threads // WARP):
            put(total, get(total) + sums[i64(warp)])
        return get(total) * f32(1.0 / (count or self._size))
