"""Kernels of elementwise ops, and of rows times a factor each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.elementwise import ELEMENTWISE, Value
from aprgraph.codegen.tir import Expr, Parameters, build_function, i64


def scale_rows(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], factors [n, 1] -> out [n, C]."""
    width = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", width), "float32")
        factors = parameters.buffer("factors", ("n", 1), "float32")
        out = parameters.buffer("out", ("n", width), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:

            def scale(column: Expr, count: int) -> None:
                emitter.vector(count, lambda lane: T.buffer_store(out, x[p, column + lane] * factors[p, i64(0)], [p, column + lane]))

            emitter.chunks(width, scale)

    return build_function(request.symbol, emit)


def _elementwise(value: Value) -> Callable[[KernelRequest, Cpu], Any]:
    """A kernel of ``value(emitter, operands…)`` on every element of [n, C] or [n, k, C] operands."""

    def kernel(request: KernelRequest, cpu: Cpu) -> Any:
        _, *inner, width = request.result.dims
        dims = ("n", *inner, width)
        each = int(inner[0]) if inner else 1

        def emit(parameters: Parameters) -> None:
            emitter = Emitter(cpu)
            inputs = [parameters.buffer(f"x{i}", dims, "float32") for i in range(len(request.operands))]
            out = parameters.buffer("out", dims, "float32")
            with T.parallel(i64(0), parameters.size("n") * each) as index:
                row = (T.floordiv(index, i64(each)), T.floormod(index, i64(each))) if inner else (index,)

                def store(column: Expr, count: int) -> None:
                    def element(lane: Expr) -> None:
                        at = (*row, column + lane)
                        T.buffer_store(out, value(emitter, *(x[at] for x in inputs)), list(at))

                    emitter.vector(count, element)

                emitter.chunks(int(width), store)

        return build_function(request.symbol, emit)

    return kernel


add = _elementwise(ELEMENTWISE["add"])
mul = _elementwise(ELEMENTWISE["mul"])
silu = _elementwise(ELEMENTWISE["silu"])
gelu = _elementwise(ELEMENTWISE["gelu"])
sigmoid = _elementwise(ELEMENTWISE["sigmoid"])
