"""Builds a kernel library: every distinct kernel once, linked into one shared object."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm.target import Target

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cpu import KERNELS
from aprgraph.codegen.kernels.cpu.statistics import tensor_statistics
from aprgraph.graph.calling_convention import STATISTICS_KERNEL
from aprgraph.graph.errors import GraphError, ToolchainError


def llvm_target(cpu: Cpu) -> Any:
    """The TVM target of ``cpu``."""
    return Target({"kind": "llvm", "mcpu": cpu.name})


def kernel_module(requests: Mapping[str, KernelRequest], cpu: Cpu) -> Any:
    """The IRModule of the kernels ``requests``, by symbol, and of the statistics kernel. Raises GraphError."""
    functions = {STATISTICS_KERNEL: tensor_statistics(cpu)}
    for symbol, request in requests.items():
        if request.op not in KERNELS:
            raise GraphError(f"no kernel for the op {request.op!r}; there are kernels for {', '.join(KERNELS)}")
        functions[symbol] = KERNELS[request.op](request, cpu)
    return tvm.IRModule(functions)


def build_library(requests: Mapping[str, KernelRequest], cpu: Cpu, path: Path) -> None:
    """Compile the kernels ``requests`` and link them into the shared object ``path``. Raises ToolchainError."""
    linker()  # says that there is none before the seconds that compiling takes
    export(tvm.compile(kernel_module(requests, cpu), llvm_target(cpu)).mod, path)


def export(module: Any, path: Path) -> None:
    """Link a compiled TVM module into the shared object ``path``. Raises ToolchainError."""
    module.export_library(str(path), fcompile=_link)


def linker() -> list[str]:
    """A command that links like a C compiler: cc, gcc or clang if installed, else the ziglang package's. Raises ToolchainError."""
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise ToolchainError(
        "no linker: kernels are compiled by TVM, but linking them needs cc, gcc or clang, or the Python package ziglang; "
        "install one (pip install 'aprgraph[linker]')"
    )


def _link(output: str, objects: list[str] | str, options: list[str] | None = None, **_: Any) -> None:
    """Link object files into a shared object; the signature is the one that export_library calls."""
    names = [objects] if isinstance(objects, str) else list(objects)
    command = [*linker(), "-shared", "-fPIC", "-o", output, *names, *(options or []), "-lm"]
    with tempfile.TemporaryFile() as log:
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    if code:
        raise ToolchainError(f"linking the kernels failed ({command[0]}, exit {code}): {said[-1] if said else 'no message'}")
