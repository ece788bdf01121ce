"""Stands in for nvcc: takes its options, and makes a fat binary of code for the host.

The folders of the headers and of the cache are the first two arguments, which the script bin/nvcc gives.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .fat_binary import pack
from .host_compiler import CompileError, compile_kernels

_VERSION = """\
nvcc: NVIDIA (R) Cuda compiler driver
(an emulation of it, which compiles for the host)
Cuda compilation tools, release 13.0, V13.0.0
"""
_KNOWN = ("75", "80", "86", "87", "88", "89", "90", "100", "103", "110", "120", "121")
#: Options whose value is the next argument.
_WITH_VALUE = ("-o", "--output-file", "-gencode", "--generate-code", "-arch", "--gpu-architecture", "-code", "--gpu-code", "-std", "--std",
               "-I", "-O", "-Xptxas", "--ptxas-options", "-Xcompiler", "--threads", "-t", "-ccbin")  # fmt: skip
#: Options that change the arithmetic to one that is not emulated.
_REFUSED = ("--use_fast_math", "-use_fast_math", "--fmad=true", "-fmad=true", "--ftz=true", "-ftz=true", "--prec-div=false", "-prec-div=false",
            "--prec-sqrt=false", "-prec-sqrt=false")  # fmt: skip


def main(include: str, cache: str, arguments: Sequence[str]) -> int:
    """Run nvcc with ``arguments``; the exit code."""
    if "--version" in arguments or "-V" in arguments:
        sys.stdout.write(_VERSION)
        return 0
    if "--list-gpu-code" in arguments or "--list-gpu-arch" in arguments:
        prefix = "sm" if "--list-gpu-code" in arguments else "compute"
        sys.stdout.write("".join(f"{prefix}_{number}\n" for number in _KNOWN))
        return 0
    try:
        _compile(include, cache, arguments)
    except CompileError as error:
        # Places in the manner of nvcc.
        sys.stderr.write(re.sub(r"^kernels\.cu:(\d+):\d+:", r"kernels.cu(\1):", f"{error}\n", flags=re.MULTILINE))
        return 1
    return 0


def _compile(include: str, cache: str, arguments: Sequence[str]) -> None:
    output, inputs, sass, ptx = "a.fatbin", [], [], []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word in _REFUSED:
            raise CompileError(f"nvcc fatal   : '{word}' is not emulated")
        if word in _WITH_VALUE:
            value = next(words, "")
        if word in ("-o", "--output-file"):
            output = value
        elif name in ("-gencode", "--generate-code"):
            for kind, number in re.findall(r"\b(sm|compute)_(\w+)", value.split("code=")[-1] if "code=" in value else value):
                (sass if kind == "sm" else ptx).append(number)
        elif name in ("-arch", "--gpu-architecture", "-code", "--gpu-code"):
            sass += re.findall(r"\bsm_(\w+)", value)
        elif not word.startswith("-") and not (equals and name in _WITH_VALUE) and word.endswith(".cu"):
            inputs.append(word)
    for number in [*sass, *ptx]:
        if re.sub(r"[af]$", "", number) not in _KNOWN:
            raise CompileError(f"nvcc fatal   : Unsupported gpu architecture 'compute_{number}'")
    if len(inputs) != 1:
        raise CompileError("nvcc fatal   : expected one file to compile")
    sass, ptx = list(dict.fromkeys(sass or ["75"])), list(dict.fromkeys(ptx))
    library = compile_kernels(Path(inputs[0]).read_text(encoding="utf-8"), Path(include), Path(cache), min(sass, key=_order))
    Path(output).write_bytes(pack(library.path.read_bytes(), [kernel.name for kernel in library.kernels], sass, ptx))


def _order(architecture: str) -> int:
    return int(re.sub(r"\D", "", architecture))
