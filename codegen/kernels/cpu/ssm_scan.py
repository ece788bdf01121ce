"""The kernel of the scan of a state space model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64, only, registers

#: Vectors of columns that a thread takes at once: as many sums as hide what a multiply-add takes.
_VECTORS = 4


def ssm_scan(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, H·V], b, c [n, G·K], decay, step [n, H], skip [H], perhaps rates [H, K], state [H, K, V] -> out [n, H·V].

    Columns of a state never meet, so a thread takes some of one head, and all positions in turn.
    """
    x_type, b_type, _, decay_type, _, skip_type, *rates_types = request.operands
    if rates_types:
        return _scan_with_rates(request, cpu)
    heads, groups = int(decay_type.dims[1]), request.attr_int("groups")
    keys, values = int(b_type.dims[1]) // groups, int(x_type.dims[1]) // heads
    columns = min(_VECTORS * cpu.lanes, values)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", heads * values), "float32")
        b, c = (parameters.buffer(name, ("n", groups * keys), "float32") for name in ("b", "c"))
        decay, step = (parameters.buffer(name, ("n", heads), "float32") for name in ("decay", "step"))
        skip = Weight(emitter, parameters, "skip", skip_type)
        state = parameters.buffer("state", (heads, keys, values), "float32")
        out = parameters.buffer("out", ("n", heads * values), "float32")

        def scan(head: Expr, first: Expr, count: int) -> None:
            group = T.floordiv(head, i64(heads // groups))
            sums, added, fade, kept = registers(count), registers(count), registers(1), registers(1)
            vectors = [(start, min(cpu.lanes, count - start)) for start in range(0, count, cpu.lanes)]

            def begin(lane: Expr) -> None:
                assign(added, x[p, head * values + first + lane] * step[p, head], [lane])
                assign(sums, f32(0.0), [lane])

            def move_on(lane: Expr) -> None:
                at = (head, i, first + lane)
                assign(state, emitter.fma(b[p, group * keys + i], added[lane], state[at] * only(fade)), at)
                assign(sums, emitter.fma(state[at], c[p, group * keys + i], sums[lane]), [lane])

            def store(lane: Expr) -> None:
                at = head * values + first + lane
                assign(out, emitter.fma(x[p, at], only(kept), sums[lane]), [p, at])

            def each(body: Callable[[Expr], None]) -> None:
                for start, width in vectors:

                    def shifted(lane: Expr, start: int = start) -> None:
                        body(lane + start)

                    emitter.vector(width, shifted)

            assign(kept, skip.plain(i64(0), head), [i64(0)])
            with T.serial(i64(0), parameters.size("n")) as p:
                assign(fade, emitter.exp(decay[p, head]), [i64(0)])
                each(begin)
                with T.serial(i64(0), i64(keys)) as i:
                    each(move_on)
                each(store)

        whole, rest = divmod(values, columns)
        with T.parallel(i64(0), i64(heads * whole)) as index:
            scan(T.floordiv(index, i64(whole)), T.floormod(index, i64(whole)) * columns, columns)
        if rest:
            with T.parallel(i64(0), i64(heads)) as head:
                scan(head, i64(whole * columns), rest)

    return build_function(request.symbol, emit)


def _scan_with_rates(request: KernelRequest, cpu: Cpu) -> Any:
    """The same where a head has one column, and each row of its state a rate of its own: the lanes of a vector are rows."""
    _, b_type, _, decay_type, _, skip_type, rates_type = request.operands
    heads, groups = int(decay_type.dims[1]), request.attr_int("groups")
    keys = int(b_type.dims[1]) // groups

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", heads), "float32")
        b, c = (parameters.buffer(name, ("n", groups * keys), "float32") for name in ("b", "c"))
        decay, step = (parameters.buffer(name, ("n", heads), "float32") for name in ("decay", "step"))
        skip = Weight(emitter, parameters, "skip", skip_type)
        rates = Weight(emitter, parameters, "rates", rates_type)
        state = parameters.buffer("state", (heads, keys, 1), "float32")
        out = parameters.buffer("out", ("n", heads), "float32")

        with T.parallel(i64(0), i64(heads)) as head:
            group = T.floordiv(head, i64(heads // groups))
            sums, added = registers(cpu.lanes), registers(1)
            with T.serial(i64(0), parameters.size("n")) as p:
                assign(added, x[p, head] * step[p, head], [i64(0)])
                emitter.zero(sums, 0, cpu.lanes)

                def move_on(first: Expr, width: int) -> None:
                    def one(lane: Expr) -> None:
                        row = first + lane
                        fade = emitter.exp(decay[p, head] * rates.plain(head, row))
                        at = (head, row, i64(0))
                        assign(state, emitter.fma(b[p, group * keys + row], only(added), state[at] * fade), at)
                        assign(sums, emitter.fma(state[at], c[p, group * keys + row], sums[lane]), [lane])

                    emitter.vector(width, one)

                emitter.chunks(keys, move_on)
                total = emitter.sum_lanes(sums, 0)
                assign(out, emitter.fma(x[p, head], skip.plain(i64(0), head), total), [p, head])

    return build_function(request.symbol, emit)
