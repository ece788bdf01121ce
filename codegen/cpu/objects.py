"""Compiles CPU kernels into object files, one a kernel."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.target import Target

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cpu import find_kernel
from aprgraph.codegen.kernels.cpu.statistics import tensor_statistics
from aprgraph.codegen.linker import object_of
from aprgraph.graph.calling_convention import STATISTICS_KERNEL

#: Passes of TVM's pipeline that kernels do without. Together they took three fifths of the time that a kernel takes to compile.
_NOT_RUN = (
    # A module of one function would get a second name for it, __tvm_ffi_main; a library of many has no such one.
    "tirx.AnnotateEntryFunc",
    # Buffers have one dimension (codegen/tir.py), and are as large as they need to be.
    "tirx.FlattenBuffer",
    "s_tir.CompactBufferAllocation",
    # LLVM simplifies indices, and drops what does nothing or is computed twice.
    "s_tir.StmtSimplify",
    "tirx.RemoveNoOp",
    "tirx.CommonSubexprElim",
)


def llvm_target(cpu: Cpu) -> Any:
    """The TVM target of ``cpu``."""
    return Target({"kind": "llvm", "mcpu": cpu.name})


def compile_kernel(request: KernelRequest, cpu: Cpu) -> bytes:
    """The object file of the kernel that computes ``request``. Raises GraphError for an op that has none."""
    return _compile(request.symbol, find_kernel(request.op)(request, cpu), cpu)


def compile_statistics(cpu: Cpu) -> bytes:
    """The object file of the statistics kernel."""
    return _compile(STATISTICS_KERNEL, tensor_statistics(cpu), cpu)


def _compile(symbol: str, function: Any, cpu: Cpu) -> bytes:
    with tvm.transform.PassContext(disabled_pass=list(_NOT_RUN)):
        return object_of(tvm.compile(tvm.IRModule({symbol: function}), llvm_target(cpu)).mod)
