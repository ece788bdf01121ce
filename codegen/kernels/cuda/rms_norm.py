"""The RMSNorm kernel."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import THREADS, WARP, Emitter, get, launch, put, registers, shared, sync_block
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64

#: Rows up to this long are summed by one warp.
_SHORT = 512


def rms_norm(request: KernelRequest) -> Any:
    """x [n, C], weight [C / groups] or [groups, C / groups], which may be left out -> out [n, C], normalised over each group of columns."""
    x_type, *weight_types = request.operands
    columns, groups = int(x_type.dims[1]), request.attr_int("groups")
    size = columns // groups
    threads = WARP if size <= _SHORT else THREADS

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = [Weight(emitter, parameters, "weight", kind) for kind in weight_types]
        eps = number_parameters(parameters, request)["eps"]
        out = parameters.buffer("out", ("n", columns), "float32")
        for weight in weights:
            weight.open()
        with launch(parameters.size("n") * groups, threads) as (index, thread):
            total, factor = registers(1), registers(1)
            sums = shared(threads // WARP)
            p, group = T.floordiv(index, i64(groups)), T.floormod(index, i64(groups))
            start = group * size
            put(total, f32(0.0))
            with T.serial(i64(0), i64(-(-size // threads))) as step:
                column = step * threads + thread
                with T.If(column < size), T.Then():
                    put(total, emitter.fma(x[p, start + column], x[p, start + column], get(total)))
            emitter.warp_sum(total)
            assign(sums, get(total), [T.floordiv(thread, i64(WARP))])
            sync_block()
            put(total, f32(0.0))
            for warp in range(threads // WARP):
                put(total, get(total) + sums[i64(warp)])
            put(factor, f32(1.0) / T.sqrt(get(total) * f32(1.0 / size) + eps))

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
