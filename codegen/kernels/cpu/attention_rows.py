"""What CPU attention kernels are made of: a position's scores, softmax and mix, for heads that share a KV head.

Some positions are a tile, and meet some keys after the other: k and v come into the first-level cache once for all of them. No sum
depends on that: each is continued where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.vectors import store_vector, sums_of_lanes
from aprgraph.codegen.kernels.elementwise import soft_capped
from aprgraph.codegen.tir import Buffer, Expr, Parameters, along, assign, f32, i64, is_nan, only, registers
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.attention import is_causal, is_chunked, is_symmetric, value_size_of

_KEYS_AT_ONCE = 4
#: Registers for what is read, beside the sums.
_OTHERS = 4
#: Positions of a tile, and keys that they meet at once, whose k or v should stay in the first-level cache.
_POSITIONS, _KEYS = 8, 64
#: Head columns that a register buffer holds at once in the mix.
_PIECE_LIMIT = 256


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of ``number`` that is at most ``limit``, and at least 1."""
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(limit, 1))


@dataclass(frozen=True)
class Heads:
    """How heads are grouped: ``together`` query heads of one KV head are one row of work."""

    heads: int
    kv_heads: int
    together: int

    @property
    def groups(self) -> int:
        """Rows of work of one position."""
        return self.heads // self.together


@dataclass(frozen=True)
class Mask:
    """What a position attends to: keys of its ``window``, unless there is None, and if ``causal`` none after it.

    The window is the last positions, or, if ``chunked``, the chunk of as many that the position stands in.
    A ``symmetric`` one reaches half of its size to either side.
    """

    window: Expr | None
    causal: bool
    chunked: bool
    symmetric: bool

    def first_key(self, position: Expr) -> Expr:
        """The first key that is attended to from ``position``."""
        if self.window is None:
            return i64(0)
        if self.symmetric:
            return T.max(position - T.floordiv(self.window, i64(2)), i64(0))
        return position - T.floormod(position, self.window) if self.chunked else T.max(position + 1 - self.window, i64(0))

    def stop(self, position: Expr, t: Expr) -> Expr:
        """Where the keys end that are attended to from ``position``, of ``t`` keys."""
        if self.window is not None and self.symmetric:
            return T.min(position + T.floordiv(self.window, i64(2)) + 1, t)
        return position + 1 if self.causal else t


def mask_of(request: KernelRequest, numbers: Mapping[str, Expr]) -> Mask:
    """That of a request, whose numbers are ``numbers``."""
    return Mask(numbers.get("window"), is_causal(request.attrs), is_chunked(request.attrs), is_symmetric(request.attrs))


def size_of_heads(request: KernelRequest) -> int:
    """The elements of a head of q and of k, for a request whose first operand is q."""
    return int(request.operands[0].dims[1]) // request.attr_int("heads")


@dataclass(frozen=True)
class Row:
    """One position and one group of heads. The position may attend to ``seen`` keys of ``t``, from ``first_key`` on."""

    heads: Heads
    mask: Mask
    position: Expr
    first_head: Expr
    kv_head: Expr
    first_key: Expr
    seen: Expr
    t: Expr


@dataclass(frozen=True)
class Tile:
    """``count`` positions from ``first`` on and one group of heads. They attend to ``span`` keys of ``t``, from ``first_key`` on.

    ``rows`` and ``room`` are ``count`` and ``span`` as sizes of scratch memory have to be given.
    """

    heads: Heads
    mask: Mask
    first: Expr
    count: Expr
    first_head: Expr
    kv_head: Expr
    first_key: Expr
    span: Expr
    before: Expr
    t: Expr
    rows: Expr
    room: Expr

    def for_each_row(self, body: Callable[[Expr, Row], None]) -> None:
        """Emit ``body`` for every position, with its number in the tile."""
        with T.serial(i64(0), self.count) as number:
            position = self.first + number
            first_key = self.mask.first_key(self.before + position)
            seen = self.mask.stop(self.before + position, self.t) - first_key
            position, first_key, seen = T.bind(position), T.bind(first_key), T.bind(seen)
            body(number, Row(self.heads, self.mask, position, self.first_head, self.kv_head, first_key, seen, self.t))

    def for_each_part(self, body: Callable[[Expr, Row, Expr, Expr], None]) -> None:
        """Emit ``body`` for some keys after the other, and for every position the part of these that it attends to: from where to where,
        counted from its own first key.
        """

        def part(block_of_keys: Expr, number: Expr, row: Row) -> None:
            start = self.first_key + block_of_keys * _KEYS - row.first_key
            first = T.bind(T.max(start, i64(0)))
            body(number, row, first, T.bind(T.max(T.min(start + _KEYS, row.seen), first)))

        with T.serial(i64(0), T.floordiv(self.span + (_KEYS - 1), i64(_KEYS))) as block_of_keys:
            self.for_each_row(partial(part, block_of_keys))


def for_each_tile(
    parameters: Parameters,
    heads: Heads,
    mask: Mask,
    body: Callable[[Tile], None],
    *,
    positions: int = _POSITIONS,
    count: Expr | None = None,
) -> None:
    """Emit ``body`` for all positions, ``positions`` at a time, and every group of heads, in parallel; for the first ``count`` positions,
    where that is given.
    """
    n, t = parameters.size("n"), parameters.size("t")
    count = n if count is None else count
    tiles = T.floordiv(count + (positions - 1), i64(positions))
    with T.parallel(i64(0), tiles * heads.groups) as index:
        first = _from_both_ends(T.floordiv(index, i64(heads.groups)), tiles) * positions
        rows = T.min(count - first, i64(positions))
        first_head = T.floormod(index, i64(heads.groups)) * heads.together
        kv_head = T.floordiv(first_head, i64(heads.heads // heads.kv_heads))
        first_key = mask.first_key(t - n + first)
        room = mask.stop(t - n + first + rows - 1, t) - first_key
        # As variables, for hundreds of indices hold them: written out in each, they are half of the time that TVM takes. But for
        # the sizes of scratch memory, which TVM declares before any variable.
        first, first_head, kv_head = T.bind(first), T.bind(first_head), T.bind(kv_head)
        first_key, span, seen_rows, before = T.bind(first_key), T.bind(room), T.bind(rows), T.bind(t - n)
        body(Tile(heads, mask, first, seen_rows, first_head, kv_head, first_key, span, before, t, rows, room))


def for_each_row(
    parameters: Parameters, heads: Heads, mask: Mask, body: Callable[[Row], None], *, first: Expr | None = None, count: Expr | None = None
) -> None:
    """Emit ``body`` for every position and group of heads, in parallel; of ``count`` positions from ``first`` on, where these are given."""
    n, t = parameters.size("n"), parameters.size("t")
    count = n if count is None else count
    with T.parallel(i64(0), count * heads.groups) as index:
        position = _from_both_ends(T.floordiv(index, i64(heads.groups)), count)
        position = position if first is None else first + position
        first_head = T.floormod(index, i64(heads.groups)) * heads.together
        kv_head = T.floordiv(first_head, i64(heads.heads // heads.kv_heads))
        first_key = mask.first_key(t - n + position)
        seen = mask.stop(t - n + position, t) - first_key
        position, first_head, kv_head = T.bind(position), T.bind(first_head), T.bind(kv_head)
        first_key, seen = T.bind(first_key), T.bind(seen)
        body(Row(heads, mask, position, first_head, kv_head, first_key, seen, t))


def _from_both_ends(step: Expr, count: Expr) -> Expr:
    """The first, the last, the second and so on: threads take contiguous halves of a loop, and late positions see more keys."""
    half = T.floordiv(step, i64(2))
    return T.Select(T.floormod(step, i64(2)) == 0, half, count - 1 - half)


def heads_together(share: int, cpu: Cpu) -> int:
    """How many of ``share`` query heads of one KV head are computed together: all of them read the same k and v."""
    return largest_divisor(share, (cpu.registers - _OTHERS) // _KEYS_AT_ONCE)


def _mix_piece(size: int, together: int, cpu: Cpu) -> int:
    """A head's columns in pieces, as equal as vectors can be, of which those of ``together`` heads fit the registers."""
    vectors = -(-size // cpu.lanes)
    most = max(1, min((cpu.registers - _OTHERS) // together, _PIECE_LIMIT // cpu.lanes))
    return min(size, -(-vectors // -(-vectors // most)) * cpu.lanes)


def _same(value: Expr, _lane: Expr) -> Expr:
    """One value in every lane."""
    return value


def emit_scores(
    emitter: Emitter,
    row: Row,
    keys_of: tuple[Expr, Expr],
    q: Buffer,
    k: Buffer,
    size: int,
    numbers: Mapping[str, Expr],
    store: Callable[[int, Expr, Expr], None],
) -> None:
    """``store(head of the group, key, score)`` for each key from one to another, counted from the row's first one.

    A score is q · k · scale for heads of ``size`` elements, capped softly if there is a cap among the ``numbers``.
    """
    lanes, together, cap = emitter.lanes, row.heads.together, numbers.get("cap")
    pitch = row.heads.kv_heads * size
    sums = [registers(_KEYS_AT_ONCE * lanes) for _ in range(together)]

    q_at = T.bind(q.place((row.position, row.first_head * size)))

    def keys(first_key: Expr, count: int) -> None:
        k_at = T.bind(k.place((row.first_key + first_key, row.kv_head * size)))

        def stored(h: int, score: Callable[[Expr], Expr], j: Expr) -> None:
            store(h, first_key + j, score(j))

        for h in range(together):
            emitter.zero(sums[h], 0, count * lanes)

        def step(column: Expr, width: int) -> None:
            # What the heads share is loaded once before all of them: one register of it is in use at a time.
            for j in range(count):
                for h in range(together):
                    a = along(q.elements, q_at + (column + h * size))
                    b = along(k.elements, k_at + (column + j * pitch))
                    emitter.dot_step(sums[h], j * lanes, width, a, b)

        emitter.chunks(size, step)
        for h in range(together):
            if count == _KEYS_AT_ONCE:
                store_vector(sums[h], 0, sums_of_lanes(sums[h], count, lanes))
            else:
                assign(sums[h], emitter.sum_lanes(sums[h], 0), [i64(0)])

            def score(j: Expr, those: Buffer = sums[h]) -> Expr:
                found = those[j] * numbers["scale"]
                return found if cap is None else soft_capped(emitter, found, cap)

            emitter.vector(count, partial(stored, h, score))

    start, stop = keys_of
    whole = T.bind(T.floordiv(stop - start, i64(_KEYS_AT_ONCE)))
    with T.serial(i64(0), whole) as step_of_keys:
        keys(start + step_of_keys * _KEYS_AT_ONCE, _KEYS_AT_ONCE)
    with T.serial(i64(0), stop - start - whole * _KEYS_AT_ONCE) as rest:
        keys(start + whole * _KEYS_AT_ONCE + rest, 1)


def emit_softmax(emitter: Emitter, row: Row, score: Callable[[Expr], Expr], out: Buffer, *at: Expr, sink: Expr | None = None) -> None:
    """out(key) = softmax over the keys that the row may attend to; ``score(key)`` may be that same place.

    A ``sink`` is a logit beside them, which takes its part of the sum, after all keys. Keys count from the row's first
    one; the last of ``at`` is where that one lies in ``out``.
    """
    lanes = emitter.lanes
    lane_values, total = registers(lanes), registers(1)
    whole = T.floordiv(row.seen, i64(lanes))

    *outer, first = at

    def stored(key: Expr) -> Expr:
        index = (*outer, first + key)
        return out[index]

    def over_row(body: Callable[[Expr, Expr], None]) -> None:
        """``body(lane, key)`` for whole vectors of keys, then for those left over one at a time, each in its lane."""
        with T.serial(i64(0), whole) as step:
            emitter.vector(lanes, lambda lane: body(lane, step * lanes + lane))
        with T.serial(i64(0), row.seen - whole * lanes) as rest:
            body(rest, whole * lanes + rest)

    def keep_larger(lane: Expr, value: Expr) -> None:
        # Not max(): a NaN score must reach the result, whichever operand it is (a comparison with NaN is false).
        best = lane_values[lane]
        assign(lane_values, T.Select(T.Or(value > best, is_nan(value)), value, best), [lane])

    def exponent(lane: Expr, key: Expr) -> None:
        assign(out, emitter.exp(score(key) - only(total)), [*outer, first + key])
        assign(lane_values, lane_values[lane] + stored(key), [lane])

    emitter.vector(lanes, lambda lane: assign(lane_values, f32(float("-inf")), [lane]))
    over_row(lambda lane, key: keep_larger(lane, score(key)))
    for lane in range(1, lanes):
        keep_larger(i64(0), lane_values[i64(lane)])
    if sink is not None:
        keep_larger(i64(0), sink)
    assign(total, lane_values[i64(0)], [i64(0)])
    emitter.zero(lane_values, 0, lanes)
    over_row(exponent)
    whole_sum = emitter.sum_lanes(lane_values, 0)
    assign(total, whole_sum if sink is None else whole_sum + emitter.exp(sink - only(total)), [i64(0)])
    over_row(lambda _lane, key: assign(out, stored(key) / only(total), [*outer, first + key]))


@dataclass(frozen=True)
class Values:
    """Heads of v: ``pitch`` columns each, of which the first ``size`` are mixed."""

    size: int
    pitch: int


def values_of(request: KernelRequest, v: TensorType) -> Values:
    """Those of a request whose operand v is ``v``."""
    pitch = int(v.dims[1]) // request.attr_int("kv_heads")
    return Values(value_size_of(request.attrs, pitch), pitch)


def clear_mix(emitter: Emitter, row: Row, values: Values, out: Buffer) -> None:
    """out[position, columns of the row's heads] = 0."""
    start, count = row.first_head * values.size, row.heads.together * values.size
    emitter.chunks(count, lambda at, width: emitter.vector(width, lambda lane: assign(out, f32(0.0), [row.position, start + at + lane])))


def emit_mix(
    emitter: Emitter, row: Row, keys_of: tuple[Expr, Expr], values: Values, weight: Callable[[int, Expr], Expr], v: Buffer, out: Buffer
) -> None:
    """out[position, columns of the row's heads] += sum over keys from one to another, in order, of ``weight(head of the group, key)`` · v.

    Keys count from the row's first one.
    """
    size = values.size
    together = row.heads.together
    piece = _mix_piece(size, together, emitter.cpu)
    sums = [registers(piece) for _ in range(together)]
    first, stop = keys_of
    for start in range(0, size, piece):
        count = min(piece, size - start)
        # Vectors of the piece; unrolled, so that the sums stay in registers.
        spans = [(at, min(emitter.lanes, count - at)) for at in range(0, count, emitter.lanes)]
        places = [(h, at, width) for h in range(together) for at, width in spans]
        out_at = T.bind(out.place((row.position, row.first_head * size + start)))
        for h, at, width in places:
            emitter.vector(width, partial(_copy, out.elements, out_at + (h * size + at), sums[h], i64(at)))
        with T.serial(i64(0), stop - first) as number:
            key = first + number
            v_at = T.bind(v.place((row.first_key + key, row.kv_head * values.pitch + start)))
            weights = [T.bind(weight(h, key)) for h in range(together)]
            for at, width in spans:
                for h in range(together):
                    emitter.dot_step(sums[h], at, width, partial(_same, weights[h]), along(v.elements, v_at + at))
        for h, at, width in places:
            emitter.vector(width, partial(_copy, sums[h], i64(at), out.elements, out_at + (h * size + at)))


def _copy(source: Buffer, start: Expr, target: Buffer, place: Expr, lane: Expr) -> None:
    T.buffer_store(target, source[start + lane], [place + lane])


def emit_masked(row: Row, out: Buffer, head: Expr) -> None:
    """0 at the keys that the row may not attend to: those before its window, and those after its own position."""
    if row.mask.window is not None:
        with T.serial(i64(0), row.first_key) as early:
            assign(out, f32(0.0), [head, row.position, early])
    stop = row.first_key + row.seen
    with T.serial(i64(0), row.t - stop) as late:
        assign(out, f32(0.0), [head, row.position, stop + late])
