"""The kernel that multiplies rows by a vector."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, i64


def scale_columns(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], factors [C] or [1] -> out [n, C]."""
    x_type, factors_type = request.operands
    columns = int(x_type.dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", columns), "float32")
        factors = Weight(emitter, parameters, "factors", factors_type)
        out = parameters.buffer("out", ("n", columns), "float32")

        def scale(p: Expr, column: Expr) -> None:
            assign(out, x[p, column] * factors.plain(i64(0), i64(0)), [p, column])

        with T.parallel(i64(0), parameters.size("n")) as p:
            if factors.columns == columns:
                factors.decode_row(i64(0), lambda column, value: assign(out, x[p, column] * value, [p, column]))
            else:
                emitter.chunks(columns, lambda start, width: emitter.vector(width, lambda lane: scale(p, start + lane)))

    return build_function(request.symbol, emit)
