"""The CUDA kernel that leaves what lies above a bound by the mean and the deviation of a row."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, launch, put, registers
from aprgraph.codegen.kernels.cuda.row_mean import RowMean, threads_for
from aprgraph.codegen.kernels.elementwise import KernelArithmetic
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, i64
from aprgraph.graph.ops.gaussian_top_k import of_sample


def gaussian_top_k(request: KernelRequest) -> Any:
    """x [n, C] -> out [n, C]."""
    columns = int(request.operands[0].dims[1])
    count, threads = columns - of_sample(request.attrs), threads_for(columns)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        m = KernelArithmetic(emitter)
        x = parameters.buffer("x", ("n", columns), "float32")
        factor = number_parameters(parameters, request)["factor"]
        out = parameters.buffer("out", ("n", columns), "float32")
        with launch(parameters.size("n"), threads) as (p, thread):
            mean, bound = registers(1), registers(1)
            row = RowMean(emitter, thread, columns)

            def centred(column: Expr) -> Expr:
                return x[p, column] - get(mean)

            put(mean, row.of(lambda column, total: total + x[p, column]))
            # The squares of what is left: the difference of two sums loses digits where the mean is large.
            variance = row.of(lambda column, total: emitter.fma(centred(column), centred(column), total), count)
            put(bound, get(mean) + T.sqrt(variance) * factor)
            with T.serial(i64(0), i64(-(-columns // threads))) as step:
                column = step * threads + thread
                with T.If(column < columns), T.Then():
                    assign(out, m.maximum(x[p, column] - get(bound), 0.0), [p, column])

    return build_function(request.symbol, emit)
