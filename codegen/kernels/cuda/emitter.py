"""Emits CUDA code: launches, what the threads of a warp exchange, and where the threads of a block meet.

Barriers are written out: the pass of TVM's that would insert them is left out of the pipeline (codegen/cuda/source.py),
and the tests run every kernel with its threads in several orders instead, which finds a missing one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tvm.tirx.script import builder as T

from aprgraph.codegen.tir import Arithmetic, Buffer, Expr, assign, i64

#: Threads that run in step and may exchange registers.
WARP = 32
#: Threads of a block where nothing asks for another number.
THREADS = 256

_ALL_LANES = 0xFFFFFFFF


class Emitter(Arithmetic):
    """Emits statements of a CUDA kernel. The compiler contracts nothing: a multiply-add is one because it says so."""

    def fma(self, a: Expr, b: Expr, c: Expr) -> Expr:
        """See ``Arithmetic.fma``."""
        return T.call_pure_extern("float32", "fmaf", a, b, c)

    def load(self, target: Buffer, at: int, count: int, source: Callable[[Expr], Expr]) -> None:
        """target[at + lane] = source(lane) for ``count`` lanes in one access, at a multiple of its size."""
        with T.vectorized(i64(0), i64(count)) as lane:
            put(target, source(lane), i64(at) + lane)

    def warp_sum(self, value: Buffer, at: int = 0) -> None:
        """Every lane's ``value[at]`` becomes the sum over the warp, by halves: the same bits in all lanes."""
        for distance in (16, 8, 4, 2, 1):
            assign(value, value[i64(at)] + shuffle_xor(value[i64(at)], distance), [i64(at)])


@contextmanager
def launch(blocks: Expr, threads: int) -> Iterator[tuple[Expr, Expr]]:
    """A kernel of ``blocks`` blocks of ``threads`` threads; gives the numbers of the block and of the thread in it."""
    with (
        T.launch_thread("blockIdx.x", blocks) as block_index,
        T.launch_thread("threadIdx.x", i64(threads)) as thread,
    ):
        yield block_index, thread


@contextmanager
def launch_over(count: Expr) -> Iterator[Expr]:
    """A kernel with a thread for each of ``count`` indices; gives the index."""
    with launch(ceil_div(count, THREADS), THREADS) as (block_index, thread):
        index = block_index * THREADS + thread
        with T.If(index < count), T.Then():
            yield index


def split_index(index: Expr, *sizes: int) -> list[Expr]:
    """``index`` in a row-major array whose inner dimensions are ``sizes``: one index for each dimension."""
    parts = []
    for size in reversed(sizes):
        parts.append(T.floormod(index, i64(size)))
        index = T.floordiv(index, i64(size))
    return [index, *reversed(parts)]


def where(condition: Expr, body: Callable[[], None], *, always: bool) -> None:
    """Emit ``body`` under ``condition``, or without it where that is known to hold."""
    if always:
        body()
        return
    with T.If(condition), T.Then():
        body()


def ceil_div(a: Expr, b: int) -> Expr:
    """a / b rounded up, for a >= 0."""
    return T.floordiv(a + (b - 1), i64(b))


def shared(*dims: int, dtype: str = "float32") -> Buffer:
    """A buffer in the block's shared memory."""
    return T.alloc_buffer([i64(dim) for dim in dims], dtype, scope="shared", layout=None)


def registers(count: int, dtype: str = "float32") -> Buffer:
    """A buffer of the thread's own, indexed by numbers that are known when it is compiled: registers."""
    return T.alloc_buffer([i64(count)], dtype, scope="local", layout=None)


def put(buffer: Buffer, value: Expr, at: Expr | int = 0) -> None:
    """buffer[at] = value."""
    assign(buffer, value, [i64(at) if isinstance(at, int) else at])


def get(buffer: Buffer, at: int = 0) -> Expr:
    """buffer[at]."""
    return buffer[i64(at)]


def zero(buffer: Buffer, count: int) -> None:
    """Set the first ``count`` elements of an f32 buffer to 0."""
    for at in range(count):
        put(buffer, T.float32(0.0), at)


def sync_block() -> None:
    """All threads of the block have come here, and see what the others wrote before."""
    T.evaluate(T.tvm_storage_sync("shared"))


def shuffle_xor(value: Expr, distance: int, dtype: str = "float32") -> Expr:
    """``value`` of the lane whose number differs in the bits of ``distance``. A call: store what is used twice."""
    return T.call_extern(dtype, "__shfl_xor_sync", T.uint32(_ALL_LANES), value, T.int32(distance))


def ballot(condition: Expr) -> Expr:
    """A uint32 with the bit of each lane whose condition holds."""
    return T.call_extern("uint32", "__ballot_sync", T.uint32(_ALL_LANES), T.Cast("int32", condition))


def count_bits(value: Expr) -> Expr:
    """How many bits of a uint32 are set, as int32."""
    return T.call_pure_extern("int32", "__popc", value)
