"""The kernel of elementwise ops: whatever formula the op has, a thread for each element."""

from __future__ import annotations

import math
from typing import Any

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, launch_over, split_index
from aprgraph.codegen.kernels.elementwise import element, inner_dims
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Parameters, assign, build_function, i64


def elementwise(request: KernelRequest) -> Any:
    """Operands [n, C] or [n, k, C], or of one column -> out of the first one's shape."""
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
            assign(out, element(request, emitter, values, numbers), list(at))

    return build_function(request.symbol, emit)
