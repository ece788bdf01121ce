"""The kernel of elementwise ops: whatever formula the op has, on every element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.elementwise import element, gelu_half, inner_dims
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, each_row, i64

#: Gives an element of the result, of those of the operands and of the request's numbers by name.
Value = Callable[[Emitter, Sequence[Expr], Mapping[str, Expr]], Expr]


def elementwise(request: KernelRequest, cpu: Cpu) -> Any:
    """Operands [n, C] or [n, k, C], or of one column -> out of the first one's shape."""
    return _over_elements(request, cpu, partial(element, request))


def gelu_by_table(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] or [n, k, C] -> out of the same shape: GELU from float16 to float16."""
    return _over_elements(request, cpu, lambda emitter, values, _numbers: gelu_half(emitter, *values))


def _over_elements(request: KernelRequest, cpu: Cpu, value: Value) -> Any:
    *inner, width = inner_dims(request)
    each = inner[0] if inner else 1

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        inputs = [parameters.buffer(f"x{i}", ("n", *kind.dims[1:]), "float32") for i, kind in enumerate(request.operands)]
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", ("n", *inner, width), "float32")

        def row_of(index: Expr) -> None:
            row = (T.floordiv(index, i64(each)), T.floormod(index, i64(each))) if inner else (index,)

            def store(column: Expr, count: int) -> None:
                def put(lane: Expr) -> None:
                    at = (*row, column + lane)
                    first = (*row, i64(0))  # of an operand with one value for each row
                    values = [x[at if kind.dims[-1] == width else first] for x, kind in zip(inputs, request.operands, strict=True)]
                    assign(out, value(emitter, values, numbers), list(at))

                emitter.vector(count, put)

            emitter.chunks(width, store)

        each_row(parameters.size("n") * each, width, row_of)

    return build_function(request.symbol, emit)
