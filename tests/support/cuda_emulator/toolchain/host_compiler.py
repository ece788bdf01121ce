"""Compiles translated CUDA source with the host's g++, into a shared object that the engine loads. What was compiled once is kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .translation import MOST_SHARED, Kernel, translate

#: Arithmetic as written, each operation rounded; and checks, whose failures call the handlers in cuda_host.h.
_FLAGS = (
    "-std=c++20", "-Og", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing",
    "-ffp-contract=off", "-fexcess-precision=16", "-fcf-protection=none", "-U_FORTIFY_SOURCE",
    "-fsanitize=bounds,alignment,object-size,shift-exponent,integer-divide-by-zero", "-fno-sanitize-recover=all",
    "-w", "-D__CUDACC_VER_MAJOR__=13", "-D__CUDACC_VER_MINOR__=0",
)  # fmt: skip
#: Instructions for fused multiply-adds and half precision, where the CPU has them: calls of libm and libgcc are slow.
_CPU_FLAGS = {"fma": "-mfma", "f16c": "-mf16c"}
#: Each part has the functions that kernels share. Without the libraries that -fsanitize would add.
_LINK = ("-shared", "-Wl,-z,muldefs", "-nodefaultlibs", "-lm", "-lc", "-lgcc")


class CompileError(Exception):
    """What the compiler said of the source."""


@dataclass(frozen=True)
class KernelLibrary:
    """A shared object, and the kernels in it."""

    path: Path
    kernels: tuple[Kernel, ...]


@cache
def host_compiler() -> str | None:
    """The path of g++ 12 or later, the first to know _Float16 in C++; None if there is none."""
    for name in ("g++", "g++-15", "g++-14", "g++-13", "g++-12"):
        if path := shutil.which(name):
            version = subprocess.run([path, "-dumpversion"], capture_output=True, check=False).stdout.split(b".")[0].strip()
            if version.isdigit() and int(version) >= 12:
                return path
    return None


def compile_kernels(source: str, include: Path, cache: Path, architecture: str = "80") -> KernelLibrary:
    """Compile CUDA ``source`` against the headers ``include``; the result is kept in ``cache`` by what it was made from.

    ``architecture`` is what ``__CUDA_ARCH__`` says, as "80". Raises CompileError.
    """
    translation = translate(source)
    for kernel in translation.kernels:
        if kernel.shared_bytes > MOST_SHARED:  # in ptxas's words
            raise CompileError(
                f"ptxas error   : Entry function '{kernel.name}' uses too much shared data "
                f"({kernel.shared_bytes:#x} bytes, {MOST_SHARED:#x} max)"
            )
    if not translation.kernels:
        raise CompileError('the source has no kernel (extern "C" __global__ void ...)')
    command = [host_compiler() or "g++", *_FLAGS, *_cpu_flags(), f"-D__CUDA_ARCH__={re.sub('[^0-9]', '', architecture)}0"]
    headers = [path.read_bytes() for path in sorted(include.iterdir())]
    objects = {part: cache / f"{_digest([*headers, *command, part])}.o" for part in translation.parts}
    path = cache / f"{_digest([*map(str, objects.values()), *_LINK])}.so"
    if not path.exists():
        command += [f"-I{include}", "-include", "cuda_host.h"]
        if len(translation.parts) == 1:
            _compile({translation.parts[0]: path}, command, _LINK)
        else:
            _compile({part: place for part, place in objects.items() if not place.exists()}, [*command, "-c"])
            _link(list(objects.values()), path)
    return KernelLibrary(path, translation.kernels)


def _digest(parts: Iterable[str | bytes]) -> str:
    return hashlib.sha256(b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)).hexdigest()[:32]


def _compile(parts: Mapping[str, Path], command: Sequence[str], link: Sequence[str] = ()) -> None:
    """Compile each part to the file beside it, as many at once as there are CPUs."""

    def compile_one(part: str, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix="compiling-") as directory:
            source, target = Path(directory, "part.cpp"), Path(directory, "part.o")
            source.write_text(part, encoding="utf-8")
            _run([*command, source, "-o", target, *link])
            target.replace(place)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(compile_one, *item) for item in parts.items()]:
            done.result()


def _link(objects: Sequence[Path], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="linking-") as directory:
        target = Path(directory, "kernels.so")
        _run([host_compiler() or "g++", *objects, "-o", target, *_LINK])
        target.replace(path)


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise CompileError(done.stderr.decode(errors="replace"))


def _cpu_flags() -> list[str]:
    try:
        found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    present = found[1].split() if found else []
    return [flag for name, flag in _CPU_FLAGS.items() if name in present]
