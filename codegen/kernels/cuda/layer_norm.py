"""The LayerNorm kernel."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, launch, put, registers, sync_block
from aprgraph.codegen.kernels.cuda.row_mean import RowMean, threads_for
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64


def layer_norm(request: KernelRequest) -> Any:
    """x [n, C], weight and bias [C / groups] or [groups, C / groups] -> out [n, C], normalised over each group of columns."""
    x_type, *weight_types = request.operands
    columns, groups = int(x_type.dims[1]), request.attr_int("groups")
    size = columns // groups
    threads = threads_for(size)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = [Weight(emitter, parameters, name, kind) for name, kind in zip(("weight", "bias"), weight_types, strict=False)]
        eps = number_parameters(parameters, request)["eps"]
        out = parameters.buffer("out", ("n", columns), "float32")
        for each in weights:
            each.open()
        with launch(parameters.size("n") * groups, threads) as (index, thread):
            mean, factor = registers(1), registers(1)
            p, group = T.floordiv(index, i64(groups)), T.floormod(index, i64(groups))
            start = group * size
            row = RowMean(emitter, thread, size)

            def centred(column: Expr) -> Expr:
                return x[p, start + column] - get(mean)

            put(mean, row.of(lambda column, total: total + x[p, start + column]))
            # The squares of what is left: the difference of two sums loses digits where the mean is large.
            variance = row.of(lambda column, total: emitter.fma(centred(column), centred(column), total))
            put(factor, f32(1.0) / T.sqrt(variance + eps))

            def scale(column: Expr, value: Expr | None = None) -> None:
                normal = centred(column) * get(factor)
                assign(out, normal if value is None else normal * value, [p, start + column])

            def shift(column: Expr, value: Expr) -> None:
                assign(out, out[p, start + column] + value, [p, start + column])

            for weight in weights[:1]:
                weight.scan(thread, threads, scale, group)
            if not weights:
                with T.serial(i64(0), i64(-(-size // threads))) as step:
                    column = step * threads + thread
                    with T.If(column < size), T.Then():
                        scale(column)
            for bias in weights[1:]:
                sync_block()  # a bias of another format is shared out otherwise
                bias.scan(thread, threads, shift, group)

    return build_function(request.symbol, emit)
