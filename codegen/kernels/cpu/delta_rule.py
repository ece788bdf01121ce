"""The kernel of the gated delta rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64, only, registers
from aprgraph.graph.ops.base import number

#: Vectors of columns that a thread takes at once: as many sums as hide what a multiply-add takes.
_VECTORS = 4


def delta_rule(request: KernelRequest, cpu: Cpu) -> Any:
    """q, k [n, G·K], v [n, H·V], decay, beta [n, H], state [H, K, V] -> out [n, H·V].

    Columns of a state never meet, so a thread takes some of one head, and all positions in turn.
    """
    q_type, _, v_type, decay_type, _ = request.operands
    heads, key_heads, scale = int(decay_type.dims[1]), request.attr_int("key_heads"), number(request.attrs, "scale")
    keys, values = int(q_type.dims[1]) // key_heads, int(v_type.dims[1]) // heads
    tiled = bool(request.attrs.get("tiled", False))
    columns = min(_VECTORS * cpu.lanes, values)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        q, k = (parameters.buffer(name, ("n", key_heads * keys), "float32") for name in ("q", "k"))
        v = parameters.buffer("v", ("n", heads * values), "float32")
        decay, beta = (parameters.buffer(name, ("n", heads), "float32") for name in ("decay", "beta"))
        state = parameters.buffer("state", (heads, keys, values), "float32")
        out = parameters.buffer("out", ("n", heads * values), "float32")

        def scan(head: Expr, first: Expr, count: int) -> None:
            key_head = T.floormod(head, i64(key_heads)) if tiled else T.floordiv(head, i64(heads // key_heads))
            sums, corrections, fade = registers(count), registers(count), registers(1)
            vectors = [(start, min(cpu.lanes, count - start)) for start in range(0, count, cpu.lanes)]

            def forget(lane: Expr) -> None:
                at = (head, i, first + lane)
                assign(state, state[at] * only(fade), at)
                assign(sums, emitter.fma(state[at], k[p, key_head * keys + i], sums[lane]), [lane])

            def correct(lane: Expr) -> None:
                assign(corrections, (v[p, head * values + first + lane] - sums[lane]) * beta[p, head], [lane])
                assign(sums, f32(0.0), [lane])

            def learn(lane: Expr) -> None:
                at = (head, i, first + lane)
                assign(state, emitter.fma(k[p, key_head * keys + i], corrections[lane], state[at]), at)
                assign(sums, emitter.fma(state[at], q[p, key_head * keys + i], sums[lane]), [lane])

            def store(lane: Expr) -> None:
                assign(out, sums[lane] * f32(scale), [p, head * values + first + lane])

            def each(body: Callable[[Expr], None]) -> None:
                for start, width in vectors:

                    def shifted(lane: Expr, start: int = start) -> None:
                        body(lane + start)

                    emitter.vector(width, shifted)

            with T.serial(i64(0), parameters.size("n")) as p:
                assign(fade, emitter.exp(decay[p, head]), [i64(0)])
                each(lambda lane: assign(sums, f32(0.0), [lane]))
                with T.serial(i64(0), i64(keys)) as i:
                    each(forget)
                each(correct)
                with T.serial(i64(0), i64(keys)) as i:
                    each(learn)
                each(store)

        whole, rest = divmod(values, columns)
        with T.parallel(i64(0), i64(heads * whole)) as index:
            scan(T.floordiv(index, i64(whole)), T.floormod(index, i64(whole)) * columns, columns)
        if rest:
            with T.parallel(i64(0), i64(heads)) as head:
                scan(head, i64(whole * columns), rest)

    return build_function(request.symbol, emit)
