"""The kernel of the softmax of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import WARP, Emitter, get, launch, put, registers, shuffle_xor
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64


def softmax(request: KernelRequest) -> Any:
    """x [n, C] -> out [n, C]. A warp for each row."""
    columns = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", columns), "float32")
        out = parameters.buffer("out", ("n", columns), "float32")
        with launch(parameters.size("n"), WARP) as (p, lane):
            largest, other, total = registers(1), registers(1), registers(1)

            def each_of_mine(body: Callable[[Expr], None]) -> None:
                with T.serial(i64(0), i64(-(-columns // WARP))) as step:
                    column = step * WARP + lane
                    with T.If(column < columns), T.Then():
                        body(column)

            def add(column: Expr) -> None:
                assign(out, emitter.exp(x[p, column] - get(largest)), [p, column])
                put(total, get(total) + out[p, column])

            put(largest, f32(float("-inf")))
            each_of_mine(lambda column: put(largest, T.max(get(largest), x[p, column])))
            for distance in (16, 8, 4, 2, 1):
                put(other, shuffle_xor(get(largest), distance))
                put(largest, T.max(get(largest), get(other)))
            put(total, f32(0.0))
            each_of_mine(add)
            emitter.warp_sum(total)
            each_of_mine(lambda column: assign(out, out[p, column] / get(total), [p, column]))

    return build_function(request.symbol, emit)
