"""The kernel that puts a pass's rows into the KV cache."""

from __future__ import annotations

from typing import Any

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.lookup import copy_kernel


def cache(request: KernelRequest) -> Any:
    """x [n, C] -> the last n rows of out [t, C]; the rows before them stay as earlier passes left them."""
    width = int(request.operands[0].dims[1])
    return copy_kernel(width, width, 0, request, to_end=True)
