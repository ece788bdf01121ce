"""From TIR functions to CUDA source, and to the code on the host that launches it.

TVM's own build ends in a module that compiles its source when it is loaded, on the machine with the GPU. Here the source is
taken out instead, to be compiled ahead of time (compiler.py); what the loaded kernels are called with goes along, as the
JSON that TVM's runtime reads.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.backend.loader import load
from tvm.target import Target
from tvm.tirx import compilation_pipeline

from aprgraph.codegen.schedule_passes import schedule_pass

# What TVM calls to write its own intrinsics; a process that imports the compiler alone has not loaded it.
load("cuda")

_PIPELINE = "aprgraph-cuda"
_CREATE = "ffi.Module.create.cuda"


@dataclass(frozen=True)
class DeviceSource:
    """CUDA source, and its kernels: ``functions`` is what TVM's `runtime.LoadMetaDataFromJSON` reads."""

    code: str
    functions: str


def build_source(functions: Mapping[str, Any], cpu: str) -> tuple[Any, DeviceSource]:
    """TIR functions by name -> the host module that launches their kernels, for the CPU level ``cpu``, and their source."""
    compilation_pipeline.register_tir_pipeline(_PIPELINE, _pipeline)
    # The architecture is chosen when the source is compiled; none of what is emitted depends on it.
    target = Target({"kind": "cuda", "arch": "sm_80"}, host=Target({"kind": "llvm", "mcpu": cpu}))
    with _captured() as found:
        host = tirx.build(tvm.IRModule(dict(functions)), target, pipeline=_PIPELINE)
    host.clear_imports()
    (source,) = found
    return host, source


@contextlib.contextmanager
def _captured() -> Iterator[list[DeviceSource]]:
    """Puts what TVM would make a module of into the list."""
    found: list[DeviceSource] = []
    stand_in = tirx.build(tvm.IRModule({}), "llvm", pipeline=_PIPELINE)

    def create(code: Any, _format: str, functions: Any, _sources: Any) -> Any:
        found.append(DeviceSource(bytes(code).decode(), _describe(functions)))
        return stand_in

    original = tvm_ffi.get_global_func(_CREATE, allow_missing=True)
    tvm_ffi.register_global_func(_CREATE, create, override=True)
    try:
        yield found
    finally:
        if original is None:
            tvm_ffi.registry.remove_global_func(_CREATE)
        else:
            tvm_ffi.register_global_func(_CREATE, original, override=True)


def _describe(functions: Any) -> str:
    described = {
        str(name): {
            "name": str(info.name),
            "arg_types": [str(kind) for kind in info.arg_types],
            "launch_param_tags": [str(tag) for tag in info.launch_param_tags],
        }
        for name, info in functions.items()
    }
    return json.dumps({"tvm_version": tvm.__version__, "func_info": described}, sort_keys=True)


def _pipeline() -> tuple[Any, Any, Any]:
    """Of TVM's own passes what these kernels need, then those for the host and for the device.

    Left out: ThreadSync (barriers are written in the kernels, which know what it cannot prove: that a branch is taken by
    all threads of a block or by none), HoistIfThenElse (it moves loads out of the conditions that guard them) and StorageRewrite
    (it lets shared buffers share storage, where a barrier would be missing). So is the elimination of common subexpressions: the
    CUDA compiler does it better, and TVM's takes longer than all the rest. Loops marked to be unrolled are left to it, too: the
    source is shorter by as much.
    """

    def lower(mod: Any, _context: Any) -> Any:
        passes = [
            schedule_pass("UnifyThreadBinding"),
            tirx.transform.LowerTIRxOpaque(),
            tirx.transform.StmtSimplify(),
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.StmtSimplify(),
            tirx.transform.VerifyMemory(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
        ]
        return tvm.ir.transform.Sequential(passes)(mod)

    def finalize_host() -> Any:
        return tvm.ir.transform.Sequential([tirx.transform.LowerTVMBuiltin(), tirx.transform.LowerIntrin()])

    def finalize_device() -> Any:
        return tvm.ir.transform.Sequential([tirx.transform.StmtSimplify(), tirx.transform.LowerIntrin()])

    return tvm.transform.module_pass(lower, opt_level=0), finalize_host, finalize_device
