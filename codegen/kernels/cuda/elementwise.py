"""The kernel of elementwise ops: whatever formula the op has, a thread for each element."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, launch_over, split_index
from aprgraph.codegen.kernels.elementwise import element, gelu_half, inner_dims
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, i64

#: Gives an element of the result, of those of the operands and of the request's numbers by name.
Value = Callable[[Emitter, Sequence[Expr], Mapping[str, Expr]], Expr]


def elementwise(request: KernelRequest) -> Any:
    """Operands [n, C] or [n, k, C], or of one column -> out of the first one's shape."""
    return _over_elements(request, partial(element, request))


def gelu_by_table(request: KernelRequest) -> Any:
    """x [n, C] or [n, k, C] -> out of the same shape: GELU from float16 to float16."""
    return _over_elements(request, lambda emitter, values, _numbers: gelu_half(emitter, *values))


def _over_elements(request: KernelRequest, value: Value) -> Any:
    inner = inner_dims(request)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        inputs = [parameters.buffer(f"x{i}", ("n", *kind.dims[1:]), "float32") for i, kind in enumerate(request.operands)]
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", ("n", *inner), "float32")
        with launch_over(parameters.size("n") * math.prod(inner)) as index:
            at = tuple(split_index(index, *inner))
            first = (*at[:-1], i64(0))  # of an operand with one value for each row
            values = [x[at if kind.dims[-1] == inner[-1] else first] for x, kind in zip(inputs, request.operands, strict=True)]
            assign(out, value(emitter, values, numbers), list(at))

    return build_function(request.symbol, emit)
