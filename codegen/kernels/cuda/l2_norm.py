"""The kernel that gives heads length 1."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import WARP, Emitter, get, launch, put, registers
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Parameters, assign, build_function, f32, i64


def l2_norm(request: KernelRequest) -> Any:
    """x [n, C] -> out [n, C], normalised over each group of columns, by a warp each."""
    columns, groups = int(request.operands[0].dims[1]), request.attr_int("groups")
    size = columns // groups

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", columns), "float32")
        eps = number_parameters(parameters, request)["eps"]
        out = parameters.buffer("out", ("n", columns), "float32")
        with launch(parameters.size("n") * groups, WARP) as (index, thread):
            total = registers(1)
            p, start = T.floordiv(index, i64(groups)), T.floormod(index, i64(groups)) * size
            put(total, f32(0.0))
            with T.serial(i64(0), i64(-(-size // WARP))) as step:
                column = step * WARP + thread
                with T.If(column < size), T.Then():
                    put(total, emitter.fma(x[p, start + column], x[p, start + column], get(total)))
            emitter.warp_sum(total)
            put(total, f32(1.0) / T.sqrt(get(total) + eps))
            with T.serial(i64(0), i64(-(-size // WARP))) as step:
                column = step * WARP + thread
                with T.If(column < size), T.Then():
                    assign(out, x[p, start + column] * get(total), [p, start + column])

    return build_function(request.symbol, emit)
