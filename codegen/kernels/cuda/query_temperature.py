"""The kernel of the temperature of queries."""

from __future__ import annotations

from typing import Any

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import launch_over
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.kernels.query_temperature import temperature_at
from aprgraph.codegen.tir import Parameters, assign, build_function, i64


def query_temperature(request: KernelRequest) -> Any:
    """positions [n] i32 -> out [n, 1]."""

    def emit(parameters: Parameters) -> None:
        positions = parameters.buffer("positions", ("n",), "int32")
        numbers = number_parameters(parameters, request, "float64")
        out = parameters.buffer("out", ("n", 1), "float32")
        with launch_over(parameters.size("n")) as p:
            assign(out, temperature_at(numbers, positions[p]), [p, i64(0)])

    return build_function(request.symbol, emit)
