"""What CUDA attention kernels are made of: a block of queries, their scores, softmax and mix over tiles of keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import WARP, Emitter, ceil_div, get, launch, put, registers, shared, sync_block, zero
from aprgraph.codegen.kernels.elementwise import soft_capped
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, f32, i64, is_nan
from aprgraph.graph.ops.attention import is_causal, is_chunked, is_symmetric

#: Keys of a tile, and threads of a block: one has one key of each tile.
KEYS = 128
#: Queries of a block.
_QUERIES = 8
#: Columns of the keys in shared memory at once, and of a row there: threads that read down a column meet all banks.
_CHUNK, _PITCH = 32, 33


@dataclass(frozen=True)
class Block:
    """``queries`` queries of one head, from ``first`` on, and the tiles of keys that any of them may attend to."""

    emitter: Emitter
    thread: Expr
    head: Expr
    first: Expr
    n: Expr
    t: Expr
    window: Expr | None
    causal: bool
    chunked: bool
    symmetric: bool
    queries: int

    def position(self, query: int) -> Expr:
        """Where a query stands among the keys."""
        return self.t - self.n + self.first + query

    def exists(self, query: int) -> Expr:
        """Whether there is such a query: the last block may not be full."""
        return self.first + query < self.n

    def sees(self, query: int, key: Expr) -> Expr:
        """Whether a query may attend to a key."""
        return T.And(self.exists(query), self.reaches(self.position(query), key))

    def reaches(self, position: Expr, key: Expr) -> Expr:
        """Whether who stands at ``position`` may attend to a key."""
        seen = key <= position if self.causal else key < self.t
        if self.window is None:
            return seen
        seen = T.And(seen, key >= self.first_key(position, self.window))
        return T.And(seen, key <= position + T.floordiv(self.window, i64(2))) if self.symmetric else seen

    def first_key(self, position: Expr, window: Expr) -> Expr:
        """The first key of the window of who stands at ``position``, or of its chunk; below 0 where there are fewer."""
        if self.symmetric:
            return position - T.floordiv(window, i64(2))
        return position - T.floormod(position, window) if self.chunked else position - window + 1

    @property
    def stop(self) -> Expr:
        """Where the keys end that any query of the block may attend to."""
        if self.window is not None and self.symmetric:
            return T.min(self.position(self.queries) + T.floordiv(self.window, i64(2)), self.t)
        return T.min(self.position(self.queries), self.t) if self.causal else self.t

    def for_tiles(self, body: Callable[[Expr], None]) -> None:
        """Emit ``body(first key)`` for each tile with keys that some query of the block may attend to."""
        stop = ceil_div(self.stop, KEYS)
        first = i64(0) if self.window is None else T.max(self.first_key(self.position(0), self.window), i64(0))
        start = T.floordiv(first, i64(KEYS))
        with T.serial(i64(0), stop - start) as tile:
            body((start + tile) * KEYS)

    def reduce(self, values: Buffer, scratch: Buffer, combine: Callable[[Expr, Expr], Expr]) -> None:
        """``values[q]`` of all threads combined in a fixed order, for each query; ``scratch`` is [queries, KEYS]."""
        for query in range(self.queries):
            assign(scratch, get(values, query), [i64(query), self.thread])
        sync_block()
        distance = KEYS // 2
        while distance:
            with T.If(self.thread < distance), T.Then():
                for query in range(self.queries):
                    a, b = scratch[i64(query), self.thread], scratch[i64(query), self.thread + distance]
                    assign(scratch, combine(a, b), [i64(query), self.thread])
            sync_block()
            distance //= 2
        for query in range(self.queries):
            put(values, scratch[i64(query), i64(0)], query)
        sync_block()


def _larger(a: Expr, b: Expr) -> Expr:
    # Not max(): a NaN score must reach the result, whichever operand it is (a comparison with NaN is false).
    return T.Select(T.Or(b > a, is_nan(b)), b, a)


def _sum(a: Expr, b: Expr) -> Expr:
    return a + b


def for_each_block(
    parameters: Parameters,
    request: KernelRequest,
    numbers: Mapping[str, Expr],
    heads: int,
    body: Callable[[Block], None],
    queries: int = _QUERIES,
) -> None:
    """Emit a kernel whose blocks have ``queries`` queries, and for a position alone one whose blocks have one."""
    n, t = parameters.size("n"), parameters.size("t")
    window, causal = numbers.get("window"), is_causal(request.attrs)
    chunked, symmetric = is_chunked(request.attrs), is_symmetric(request.attrs)

    def emit(queries: int) -> None:
        with launch(ceil_div(n, queries) * heads, KEYS) as (index, thread):
            head, group = T.floormod(index, i64(heads)), T.floordiv(index, i64(heads))
            body(Block(Emitter(), thread, head, group * queries, n, t, window, causal, chunked, symmetric, queries))

    if queries == 1:
        emit(1)
        return
    with T.If(n == 1):
        with T.Then():
            emit(1)
        with T.Else():
            emit(queries)


class Scores:
    """The scores of a block's queries: q · k · scale, capped softly if there is a cap among the ``numbers``."""

    def __init__(self, block: Block, q: Buffer, k: Buffer, size: int, kv_head: Expr, numbers: Mapping[str, Expr]) -> None:
        self._block, self._k, self._size, self._kv_head = block, k, size, kv_head
        self._scale, self._cap = numbers["scale"], numbers.get("cap")
        self._queries = shared(block.queries, size)
        self._keys = shared(KEYS, _PITCH)
        self._sums = registers(block.queries)
        with T.serial(i64(0), i64(-(-size // KEYS))) as step:
            column = step * KEYS + block.thread
            with T.If(column < size), T.Then():
                for query in range(block.queries):
                    value = T.if_then_else(block.exists(query), q[block.first + query, block.head * size + column], f32(0.0))
                    assign(self._queries, value, [i64(query), column])

    def of_tile(self, first_key: Expr, store: Callable[[int, Expr, Expr], None]) -> None:
        """``store(query, key, score)`` for the thread's key of a tile; the caller asks who may attend to it."""
        block, size = self._block, self._size
        zero(self._sums, block.queries)
        for start in range(0, size, _CHUNK):
            width = min(_CHUNK, size - start)
            column, line = T.floormod(block.thread, i64(WARP)), T.floordiv(block.thread, i64(WARP))
            sync_block()
            with T.serial(i64(0), i64(KEYS // (KEYS // WARP))) as step:
                row = step * (KEYS // WARP) + line
                inside = T.And(first_key + row < block.t, column < width)
                value = T.if_then_else(inside, self._k[first_key + row, self._kv_head * size + start + column], f32(0.0))
                assign(self._keys, value, [row, column])
            sync_block()
            with T.serial(i64(0), i64(width)) as column:
                for query in range(block.queries):
                    a, b = self._queries[i64(query), start + column], self._keys[block.thread, column]
                    put(self._sums, block.emitter.fma(a, b, get(self._sums, query)), query)
        for query in range(block.queries):
            score = get(self._sums, query) * self._scale
            if self._cap is not None:  # a value that is read several times goes into a register
                put(self._sums, score, query)
                put(self._sums, soft_capped(block.emitter, get(self._sums, query), self._cap), query)
                score = get(self._sums, query)
            store(query, first_key + block.thread, score)


class Softmax:
    """The largest score and the sum of exponents of each query, as threads come by their keys in order.

    A ``sink`` is a logit of the head beside the scores, which takes its part of the sum, after all keys.
    """

    def __init__(self, block: Block, scratch: Buffer, sink: Expr | None) -> None:
        self._block, self._scratch, self._sink = block, scratch, sink
        self._largest, self._total = registers(block.queries), registers(block.queries)
        for query in range(block.queries):
            put(self._largest, f32(float("-inf")), query)
        zero(self._total, block.queries)

    def see(self, query: int, score: Expr) -> None:
        """First: a score."""
        put(self._largest, _larger(get(self._largest, query), score), query)

    def seen(self) -> None:
        """Then, when all have been seen."""
        self._block.reduce(self._largest, self._scratch, _larger)
        if self._sink is not None:
            for query in range(self._block.queries):
                self.see(query, self._sink)

    def exponent(self, query: int, score: Expr) -> Expr:
        """e^(score - largest)."""
        return self._block.emitter.exp(score - get(self._largest, query))

    def add(self, query: int, score: Expr) -> None:
        """Each again."""
        put(self._total, get(self._total, query) + self.exponent(query, score), query)

    def added(self) -> None:
        """And when all have been added."""
        self._block.reduce(self._total, self._scratch, _sum)
        if self._sink is not None:
            for query in range(self._block.queries):
                self.add(query, self._sink)

    def weight(self, query: int, score: Expr) -> Expr:
        """The softmax."""
        return self.exponent(query, score) / get(self._total, query)


class Mix:
    """Weighted sums of v, of ``size`` columns from ``start`` on: a thread has some of them for some of the block's queries."""

    def __init__(self, block: Block, v: Buffer, size: int, start: Expr, weights: Buffer) -> None:
        self._block, self._v, self._size, self._start, self._weights = block, v, size, start, weights
        self._across = min(KEYS, 1 << (size - 1).bit_length())
        groups = min(KEYS // self._across, block.queries)
        self._each = block.queries // groups
        self._columns = -(-size // self._across)
        self._sums = registers(self._each * self._columns)
        self._group = T.floordiv(block.thread, i64(self._across))
        self._first_column = T.floormod(block.thread, i64(self._across))
        self._busy = self._group < groups
        zero(self._sums, self._each * self._columns)

    def _query(self, number: int) -> Expr:
        return self._group * self._each + number

    def add_tile(self, first_key: Expr) -> None:
        """Add the keys of a tile, whose weights are in shared memory. All threads of the block come here."""
        block = self._block
        count = T.min(block.stop - first_key, i64(KEYS))
        with T.If(self._busy), T.Then(), T.serial(i64(0), count) as at:
            key = first_key + at
            for column in range(self._columns):
                mine = self._first_column + column * self._across
                with T.If(mine < self._size), T.Then():
                    value = registers(1)
                    put(value, self._v[key, self._start + mine])
                    for number in range(self._each):
                        query = self._query(number)
                        position = block.position(0) + query
                        seen = T.And(block.first + query < block.n, block.reaches(position, key))
                        to = number * self._columns + column
                        with T.If(seen), T.Then():
                            put(self._sums, block.emitter.fma(self._weights[query, at], get(value), get(self._sums, to)), to)

    def store(self, out: Buffer) -> None:
        """out[query, columns of the head] = the sums."""
        block = self._block
        with T.If(self._busy), T.Then():
            for column in range(self._columns):
                mine = self._first_column + column * self._across
                for number in range(self._each):
                    query = block.first + self._query(number)
                    with T.If(T.And(mine < self._size, query < block.n)), T.Then():
                        to = number * self._columns + column
                        assign(out, get(self._sums, to), [query, block.head * self._size + mine])
