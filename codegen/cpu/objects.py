"""Compiles CPU kernels into object files, one a kernel."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import tvm
from tvm import tirx
from tvm.target import Target
from tvm.tirx import compilation_pipeline

from aprgraph.codegen.compiler_lock import compiling
from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cpu import find_kernel
from aprgraph.codegen.kernels.cpu.files import make_files
from aprgraph.codegen.kernels.cpu.statistics import chunk_statistics, tensor_statistics
from aprgraph.codegen.linker import object_of
from aprgraph.codegen.schedule_passes import schedule_pass
from aprgraph.graph.calling_convention import CHUNKS_KERNEL, FILES_KERNEL, STATISTICS_KERNEL
from aprgraph.graph.ops import OPS
from aprgraph.graph.tvm_libraries import default_threads

_PIPELINE = "aprgraph-cpu"
#: OWN_KERNELS.
_OWN = {STATISTICS_KERNEL: tensor_statistics, CHUNKS_KERNEL: chunk_statistics, FILES_KERNEL: make_files}


def llvm_target(cpu: Cpu) -> Any:
    """The TVM target of ``cpu``.

    LLVM optimises at its first level: loops are unrolled and written in vectors here, so that what the levels above look for is
    not there. Kernels gave the same bits, and models were as fast (linear layers to the percent, a softmax took an eighth longer,
    scores a tenth less), with up to a third less time to compile.
    """
    told = {"mcpu": cpu.model or cpu.name, "mattr": [f"+{name}" for name in cpu.features]}
    return Target({"kind": "llvm", "mtriple": f"{cpu.machine}-linux-gnu", "opt-level": 1, **told})


def compile_kernels(requests: Mapping[str, KernelRequest | None], cpu: Cpu) -> Generator[tuple[str, bytes], None, None]:
    """Each symbol of ``requests`` with the object file of its kernel, as they are done; None asks for one of OWN_KERNELS.

    What a kernel does is written by Python here, one after the other. LLVM takes nine tenths of the time, and works on as many at
    once as there are processors. The bytes are those of one at a time. After an interrupt those under way are ended, and no other is
    begun. Raises GraphError for an op that has no kernel.
    """
    compilation_pipeline.register_tir_pipeline(_PIPELINE, _pipeline)
    with ThreadPoolExecutor(default_threads(), "aprgraph-kernels") as pool:
        begun = {}
        try:
            # The largest first, so that none of them is left alone at the end.
            for symbol, request in sorted(requests.items(), key=lambda item: -_work(item[1])):
                with compiling():  # a thread that is begun is known to the pool, which waits for it
                    function = _OWN[symbol](cpu) if request is None else find_kernel(request.op)(request, cpu)
                    begun[pool.submit(_compile, symbol, function, cpu)] = symbol
            for future in as_completed(begun):
                yield begun[future], future.result()
        finally:
            for future in begun:  # one has failed, or there was an interrupt
                future.cancel()


def _work(request: KernelRequest | None) -> int:
    """Roughly how much code a kernel is: matrix products come first, by how many weights they read, then attention."""
    op = None if request is None else OPS.get(request.op)
    if request is None or op is None:
        return 0
    traits = op.traits
    return 1 + len(request.operands) * (10 if traits.is_matmul else 5 if traits.attended else 0)


def _compile(symbol: str, function: Any, cpu: Cpu) -> bytes:
    return object_of(tirx.build(tvm.IRModule({symbol: function}), llvm_target(cpu), pipeline=_PIPELINE))


def _pipeline() -> tuple[Any, Any, Any]:
    """Of TVM's own passes what these kernels need, then those for the host; there is no device.

    With the others, TVM takes twice the time and LLVM emits the same bytes: they are for GPUs, for schedules, for blocks and
    for buffers of several dimensions, which these kernels do not have (codegen/tir.py). LLVM itself drops what does nothing or
    is computed twice.
    """

    def lower(mod: Any, _context: Any) -> Any:
        passes = [
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.StorageRewrite(),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            schedule_pass("RewriteUnsafeSelect"),
            tirx.transform.MakePackedAPI(),
        ]
        return tvm.ir.transform.Sequential(passes)(mod)

    def finalize() -> Any:
        return tvm.ir.transform.Sequential([tirx.transform.LowerTVMBuiltin(), tirx.transform.LowerIntrin()])

    return tvm.transform.module_pass(lower, opt_level=0), finalize, tvm.ir.transform.Sequential
