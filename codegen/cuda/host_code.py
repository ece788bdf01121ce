"""Compiles what launches CUDA kernels on the host into an object file; their source for the CUDA compiler comes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprgraph.codegen.cuda.device_code import HOST_CPU
from aprgraph.codegen.cuda.source import DeviceSource, build_source
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cuda import find_kernel
from aprgraph.codegen.kernels.cuda.statistics import tensor_statistics
from aprgraph.codegen.linker import object_of
from aprgraph.graph.calling_convention import STATISTICS_KERNEL


def build_host_code(requests: Mapping[str, KernelRequest]) -> tuple[bytes, DeviceSource]:
    """The object file that launches the kernels ``requests`` and the statistics kernel, and the source of these."""
    host, source = build_source(kernel_functions(requests), HOST_CPU)
    return object_of(host), source


def kernel_functions(requests: Mapping[str, KernelRequest]) -> dict[str, Any]:
    """The TVM functions of the kernels ``requests``, by symbol, and of the statistics kernel. Raises GraphError."""
    functions = {STATISTICS_KERNEL: tensor_statistics()}
    for symbol, request in requests.items():
        functions[symbol] = find_kernel(request.op)(request)
    return functions
