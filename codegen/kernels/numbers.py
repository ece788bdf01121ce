"""The numbers that a kernel takes when it is called, such as an epsilon: another value needs no other kernel."""

from __future__ import annotations

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.tir import Expr, Parameters


def number_parameters(parameters: Parameters, request: KernelRequest, real: str = "float32") -> dict[str, Expr]:
    """The next parameters, behind the operands: the numbers of ``request`` by name, int64 or of the dtype ``real``.

    A number that is left out, such as a scale of 1, is not there: the kernel then has no code for it.
    """
    kinds = {name: "int64" if isinstance(value, int) else real for name, value in request.numbers.items()}
    return {name: parameters.number(name, dtype) for name, dtype in kinds.items()}
