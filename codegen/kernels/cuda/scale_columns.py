"""The kernel that multiplies rows by a vector."""

from __future__ import annotations

from typing import Any

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, launch_over, split_index
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.tir import Parameters, assign, build_function, i64


def scale_columns(request: KernelRequest) -> Any:
    """x [n, C], factors [C] or [1] -> out [n, C]."""
    x_type, factors_type = request.operands
    columns = int(x_type.dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", columns), "float32")
        factors = Weight(emitter, parameters, "factors", factors_type)
        out = parameters.buffer("out", ("n", columns), "float32")
        factors.open()
        with launch_over(parameters.size("n") * columns) as index:
            p, column = split_index(index, columns)
            assign(out, x[p, column] * factors.element(i64(0), column if factors.columns == columns else i64(0)), [p, column])

    return build_function(request.symbol, emit)
