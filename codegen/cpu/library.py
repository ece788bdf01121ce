"""Builds a kernel library: each distinct kernel once, from the user's cache or compiled, linked into one shared object."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from aprgraph.codegen.cache.kernels import key_of, open_kernel_cache
from aprgraph.codegen.cache.sources import sources_digest
from aprgraph.codegen.compiler_lock import compiling
from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.linker import link, linker
from aprgraph.codegen.versions import version
from aprgraph.graph.calling_convention import OWN_KERNELS
from aprgraph.graph.tvm_libraries import compiler_alone

_EMITTER = "aprgraph.codegen.cpu.objects"


def build_library(requests: Mapping[str, KernelRequest], cpu: Cpu, path: Path) -> None:
    """Link the kernels ``requests``, by symbol, and OWN_KERNELS into the shared object ``path``.

    Those that the user's cache lacks are compiled, and kept there. Raises ToolchainError, GraphError or OSError.
    """
    linker(cpu.machine)  # says that there is none before the seconds that compiling takes
    link(find_or_compile(requests, cpu), path, cpu.machine)


def find_or_compile(requests: Mapping[str, KernelRequest], cpu: Cpu) -> list[bytes]:
    """The object files of the kernels ``requests``, by symbol, and of OWN_KERNELS, in order of their symbols."""
    cache = open_kernel_cache()
    code_depends_on = (cpu.name, version("apache-tvm"), sources_digest(_EMITTER))
    wanted: dict[str, KernelRequest | None] = {**dict.fromkeys(OWN_KERNELS), **requests}
    names = {}
    for symbol, request in sorted(wanted.items()):
        key = key_of(symbol, "" if request is None else request.content, *code_depends_on)
        names[symbol] = f"{symbol}.{cpu.name}.{key}.o"
    found = {symbol: data for symbol, name in names.items() if (data := cache.find(name)) is not None}
    missing = {symbol: wanted[symbol] for symbol in names if symbol not in found}
    if missing:
        with compiling(), compiler_alone():
            from aprgraph.codegen.cpu.objects import compile_kernels  # noqa: PLC0415 -- loads TVM's compiler
        with closing(compile_kernels(missing, cpu)) as compiled:  # an interrupt ends it here
            for symbol, data in compiled:
                cache.keep(names[symbol], data)
                found[symbol] = data
    return [found[symbol] for symbol in names]
