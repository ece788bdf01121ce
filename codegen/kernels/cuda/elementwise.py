"""Kernels of elementwise ops, and of rows times a factor each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, launch_over, split_index
from aprgraph.codegen.kernels.elementwise import ELEMENTWISE, Value
from aprgraph.codegen.tir import Parameters, build_function, i64


def scale_rows(request: KernelRequest) -> Any:
    """x [n, C], factors [n, 1] -> out [n, C]."""
    width = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", width), "float32")
        factors = parameters.buffer("factors", ("n", 1), "float32")
        out = parameters.buffer("out", ("n", width), "float32")
        with launch_over(parameters.size("n") * width) as index:
            p, column = split_index(index, width)
            T.buffer_store(out, x[p, column] * factors[p, i64(0)], [p, column])

    return build_function(request.symbol, emit)


def _elementwise(value: Value) -> Callable[[KernelRequest], Any]:
    """A kernel of ``value(emitter, operands…)`` on every element of [n, C] or [n, k, C] operands."""

    def kernel(request: KernelRequest) -> Any:
        inner = [int(dim) for dim in request.result.dims[1:]]

        def emit(parameters: Parameters) -> None:
            emitter = Emitter()
            inputs = [parameters.buffer(f"x{i}", ("n", *inner), "float32") for i in range(len(request.operands))]
            out = parameters.buffer("out", ("n", *inner), "float32")
            with launch_over(parameters.size("n") * math.prod(inner)) as index:
                at = tuple(split_index(index, *inner))
                T.buffer_store(out, value(emitter, *(x[at] for x in inputs)), list(at))

        return build_function(request.symbol, emit)

    return kernel


add = _elementwise(ELEMENTWISE["add"])
mul = _elementwise(ELEMENTWISE["mul"])
silu = _elementwise(ELEMENTWISE["silu"])
gelu = _elementwise(ELEMENTWISE["gelu"])
sigmoid = _elementwise(ELEMENTWISE["sigmoid"])
