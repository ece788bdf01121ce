"""Builds a CUDA kernel library: a shared object for the host, which launches, and a fat binary of the kernels for the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aprgraph.codegen.cuda.architectures import Architecture
from aprgraph.codegen.cuda.compiler import compile_fat_binary
from aprgraph.codegen.cuda.device_code import HOST_CPU
from aprgraph.codegen.cuda.source import build_source
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cuda import KERNELS
from aprgraph.codegen.kernels.cuda.statistics import tensor_statistics
from aprgraph.codegen.library import export, linker
from aprgraph.graph.calling_convention import STATISTICS_KERNEL
from aprgraph.graph.errors import GraphError


def kernel_functions(requests: Mapping[str, KernelRequest]) -> dict[str, Any]:
    """The TVM functions of the kernels ``requests``, by symbol, and of the statistics kernel. Raises GraphError."""
    functions = {STATISTICS_KERNEL: tensor_statistics()}
    for symbol, request in requests.items():
        if request.op not in KERNELS:
            raise GraphError(f"no CUDA kernel for the op {request.op!r}; there are kernels for {', '.join(KERNELS)}")
        functions[symbol] = KERNELS[request.op](request)
    return functions


def build_cuda_library(
    requests: Mapping[str, KernelRequest], architectures: Sequence[Architecture], library: Path, fat_binary: Path
) -> str:
    """Compile the kernels ``requests`` into the files ``library`` and ``fat_binary``.

    Returns how the kernels are called, as the JSON that TVM's runtime reads. Raises ToolchainError.
    """
    linker()  # says that there is none before the time that compiling takes
    host, source = build_source(kernel_functions(requests), HOST_CPU)
    fat_binary.write_bytes(compile_fat_binary(source.code, architectures))
    export(host, library)
    return source.functions
