"""The RMSNorm kernel."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, launch, put, registers
from aprgraph.codegen.kernels.cuda.row_mean import RowMean, threads_for
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64


def rms_norm(request: KernelRequest) -> Any:
    """x [n, C], weight [C / groups] or [groups, C / groups], which may be left out -> out [n, C], normalised over each group of columns."""
    x_type, *weight_types = request.operands
    columns, groups = int(x_type.dims[1]), request.attr_int("groups")
    size = columns // groups
    threads = threads_for(size)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = [Weight(emitter, parameters, "weight", kind) for kind in weight_types]
        eps = number_parameters(parameters, request)["eps"]
        out = parameters.buffer("out", ("n", columns), "float32")
        for weight in weights:
            weight.open()
        with launch(parameters.size("n") * groups, threads) as (index, thread):
            factor = registers(1)
            p, group = T.floordiv(index, i64(groups)), T.floormod(index, i64(groups))
            start = group * size

            def square(column: Expr, total: Expr) -> Expr:
                return emitter.fma(x[p, start + column], x[p, start + column], total)

            put(factor, f32(1.0) / T.sqrt(RowMean(emitter, thread, size).of(square) + eps))

            def scale(column: Expr, value: Expr | None = None) -> None:
                normal = x[p, start + column] * get(factor)
                assign(out, normal if value is None else normal * value, [p, start + column])

            for weight in weights:
                weight.scan(thread, threads, scale, group)
            if not weights:
                with T.serial(i64(0), i64(-(-size // threads))) as step:
                    column = step * threads + thread
                    with T.If(column < size), T.Then():
                        scale(column)

    return build_function(request.symbol, emit)
