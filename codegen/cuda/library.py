"""Builds a CUDA kernel library: a shared object for the host, which launches, and a fat binary of the kernels for the GPU."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from aprgraph.codegen.cache.kernels import key_of, open_kernel_cache
from aprgraph.codegen.cache.sources import sources_digest
from aprgraph.codegen.compiler_lock import compiling
from aprgraph.codegen.cuda.architectures import Architecture
from aprgraph.codegen.cuda.compiler import compile_fat_binary, find_compiler
from aprgraph.codegen.cuda.device_code import HOST_CPU
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.linker import link, linker
from aprgraph.codegen.versions import version
from aprgraph.graph.tvm_libraries import compiler_alone

_EMITTERS = ("aprgraph.codegen.cuda.host_code", "aprgraph.codegen.cuda.compiler")


def build_cuda_library(
    requests: Mapping[str, KernelRequest], architectures: Sequence[Architecture], library: Path, fat_binary: Path
) -> str:
    """Compile the kernels ``requests`` into the files ``library`` and ``fat_binary``.

    Returns how the kernels are called, as the JSON that TVM's runtime reads. Raises ToolchainError.
    """
    linker()  # says that there is none before the time that compiling takes
    kept = open_kernel_cache()
    # All kernels of a model are one source for the CUDA compiler, so they are kept together.
    key = key_of(
        sorted(request.content for request in requests.values()),
        [str(architecture) for architecture in architectures],
        find_compiler().identity,
        HOST_CPU,
        version("apache-tvm"),
        sources_digest(*_EMITTERS),
    )
    name = f"{len(requests)}-kernels.{'-'.join(map(str, architectures))}.{key}.cuda"
    found = kept.find(name)
    if found is None:
        with compiling():
            with compiler_alone():
                from aprgraph.codegen.cuda.host_code import build_host_code  # noqa: PLC0415 -- imports TVM's compiler

            host, source = build_host_code(requests)
        found = _join(host, compile_fat_binary(source.code, architectures), source.functions.encode())
        kept.keep(name, found)
    host, device, functions = _split(found)
    fat_binary.write_bytes(device)
    link([host], library)
    return functions.decode()


def _join(*parts: bytes) -> bytes:
    """One file of several: a line of their lengths, as JSON, then the parts."""
    return b"\n".join([json.dumps([len(part) for part in parts]).encode(), b"".join(parts)])


def _split(data: bytes) -> list[bytes]:
    lengths, _, rest = data.partition(b"\n")
    ends = list(itertools.accumulate(json.loads(lengths)))
    return [rest[start:end] for start, end in zip([0, *ends], ends, strict=False)]
