"""Compiles CPU kernels into object files, one a kernel."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.target import Target
from tvm.tirx import compilation_pipeline

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cpu import find_kernel
from aprgraph.codegen.kernels.cpu.statistics import tensor_statistics
from aprgraph.codegen.linker import object_of
from aprgraph.graph.calling_convention import STATISTICS_KERNEL

_PIPELINE = "aprgraph-cpu"


def llvm_target(cpu: Cpu) -> Any:
    """The TVM target of ``cpu``.

    LLVM optimises at its first level: loops are unrolled and written in vectors here, so that what the levels above look for is
    not there. Kernels gave the same bits, and models were as fast (linear layers to the percent, a softmax took an eighth longer,
    scores a tenth less), with up to a third less time to compile.
    """
    return Target({"kind": "llvm", "mcpu": cpu.name, "opt-level": 1})


def compile_kernel(request: KernelRequest, cpu: Cpu) -> bytes:
    """The object file of the kernel that computes ``request``. Raises GraphError for an op that has none."""
    return _compile(request.symbol, find_kernel(request.op)(request, cpu), cpu)


def compile_statistics(cpu: Cpu) -> bytes:
    """The object file of the statistics kernel."""
    return _compile(STATISTICS_KERNEL, tensor_statistics(cpu), cpu)


def _compile(symbol: str, function: Any, cpu: Cpu) -> bytes:
    compilation_pipeline.register_tir_pipeline(_PIPELINE, _pipeline)
    return object_of(tirx.build(tvm.IRModule({symbol: function}), llvm_target(cpu), pipeline=_PIPELINE))


def _pipeline() -> tuple[Any, Any, Any]:
    """Of TVM's own passes what these kernels need, then those for the host; there is no device.

    With the others, TVM takes twice the time and LLVM emits the same bytes: they are for GPUs, for schedules, for blocks and
    for buffers of several dimensions, which these kernels do not have (codegen/tir.py). LLVM itself drops what does nothing or
    is computed twice.
    """

    def lower(mod: Any, _context: Any) -> Any:
        passes = [
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.StorageRewrite(),
            tirx.transform.UnrollLoop(),
            s_tir.transform.RenormalizeSplitPattern(),
            tirx.transform.StmtSimplify(),
            s_tir.transform.RewriteUnsafeSelect(),
            tirx.transform.MakePackedAPI(),
        ]
        return tvm.ir.transform.Sequential(passes)(mod)

    def finalize() -> Any:
        return tvm.ir.transform.Sequential([tirx.transform.LowerTVMBuiltin(), tirx.transform.LowerIntrin()])

    return tvm.transform.module_pass(lower, opt_level=0), finalize, tvm.ir.transform.Sequential
