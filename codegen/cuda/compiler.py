"""Compiles CUDA C++ into a fat binary: SASS for each architecture, and PTX of the highest for devices yet to come.

Two compilers give the same arithmetic. nvcc of a CUDA toolkit, if there is one with a C++ compiler for it to preprocess with; else
NVRTC and nvFatbin, libraries that the Python packages of the extra ``cuda`` hold, with the headers that TVM's CUDA source includes.

The options, with either:

    --fmad=false               a*b+c stays two roundings: kernels write their fused multiply-adds themselves (fmaf), so that
                               the same sum has the same bits on every architecture and as PTX that a driver compiles
    --ftz=false                subnormal numbers are kept: block scales in float16 may be subnormal
    --prec-div=true            IEEE division and square root. These three are the defaults, but written down, since
    --prec-sqrt=true           --use_fast_math, which is never given, would turn each of them around
    --ptxas-options=-O3        the optimizer's highest level, also the default
    --no-compress              nvcc alone: images lie in the fat binary as they are, so that they can be read (fat_binary.py);
    -compress=false            nvFatbin's word for it
    --std=c++17                what libcu++, which TVM's source includes under NVRTC, asks for

PTX is in the language of the compiler's version, and a driver older than that (one of CUDA 13.0 for NVRTC 13.5) cannot compile it;
SASS it runs all the same (CUDA Compatibility, "Minor Version Compatibility"). Where drivers are old, name their architectures.

(CUDA Compiler Driver, section "Options for Steering GPU Code Generation"; NVRTC, "Supported Compile Options"; nvFatbin, "Supported
Options".) nvcc's own variables of the environment, NVCC_PREPEND_FLAGS and NVCC_APPEND_FLAGS, are not passed on, since they
could change the arithmetic; NVCC_CCBIN, which names the C++ compiler, is.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from aprgraph.codegen.cuda.architectures import Architecture, ptx_architecture
from aprgraph.codegen.programs import environment, find_program
from aprgraph.graph.errors import ToolchainError, shown
from aprgraph.graph.temporary_files import temporary_folder

_ARITHMETIC = ("--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--ptxas-options=-O3", "--std=c++17")
_SOURCE = "kernels.cu"
_NOT_PASSED_ON = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
_CONVENTIONAL_TOOLKIT = Path("/usr/local/cuda")


class Compiler(Protocol):
    """A CUDA compiler."""

    @property
    def name(self) -> str:
        """Name and version, for reports."""

    @property
    def identity(self) -> str:
        """What differs where another compiler might give other code: name, version, and the file that it is."""

    def compile(self, source: str, architectures: Sequence[Architecture]) -> bytes:
        """The fat binary of ``source``. Raises ToolchainError."""


def compile_fat_binary(source: str, architectures: Sequence[Architecture]) -> bytes:
    """Compile CUDA C++ into a fat binary, uncompressed: SASS for each of ``architectures``, and PTX of the highest.

    The same source, architectures and compiler give the same bytes. Raises ToolchainError: no compiler, an architecture
    that the compiler does not know, or a source that does not compile. Warnings are not shown.
    """
    if not architectures:
        raise ToolchainError("no CUDA architecture to compile for; name one, such as sm_80")
    return find_compiler().compile(source, sorted(set(architectures)))


def compiler_name() -> str:
    """The compiler that compile_fat_binary uses, for reports: "nvcc 13.0.88", "NVRTC 13.5". Raises ToolchainError."""
    return find_compiler().name


def find_compiler() -> Compiler:
    """nvcc if it can be used, else NVRTC. Raises ToolchainError that says what to install."""
    nvcc = find_nvcc()
    if nvcc is not None and _host_compiler():
        return nvcc
    if (nvrtc := find_nvrtc()) is not None:
        return nvrtc
    if nvcc is not None:
        raise ToolchainError(
            f"no C++ compiler: {nvcc.path} preprocesses with gcc, which was not found; install it (on Debian: apt install g++), "
            "or NVRTC, which needs none: pip install 'aprgraph[cuda]'"
        )
    raise ToolchainError(
        "no CUDA compiler: neither nvcc (looked for on PATH, in CUDA_HOME/bin and in /usr/local/cuda/bin) nor NVRTC with its headers; "
        "install the CUDA toolkit, or: pip install 'aprgraph[cuda]'"
    )


# --- nvcc


@dataclass(frozen=True)
class Nvcc:
    """nvcc, the compiler of a CUDA toolkit."""

    path: str

    @property
    def name(self) -> str:
        return f"nvcc {_nvcc_version(self.path)}"

    @property
    def identity(self) -> str:
        return f"{self.name}, {_file_identity(self.path)}"

    def compile(self, source: str, architectures: Sequence[Architecture]) -> bytes:
        """The fat binary of ``source``. Raises ToolchainError."""
        # One run over all architectures: nvcc compiles them in parallel, and writes the images in the order of its own.
        ptx = ptx_architecture(architectures).number
        targets = [f"--generate-code=arch=compute_{a.number},code=sm_{a.number}" for a in architectures]
        targets.append(f"--generate-code=arch=compute_{ptx},code=compute_{ptx}")
        with temporary_folder() as directory:
            (directory / _SOURCE).write_text(source, encoding="utf-8")
            options = ["--fatbin", *_ARITHMETIC, "--no-compress", "--disable-warnings", "-Wno-deprecated-gpu-targets", "--threads=0"]
            code, said = _run([self.path, *options, *targets, "-o", "kernels.fatbin", _SOURCE], str(directory))
            if code:
                raise self._failure(said, code, source, architectures)
            return (directory / "kernels.fatbin").read_bytes()

    def _failure(self, said: str, code: int, source: str, architectures: Sequence[Architecture]) -> ToolchainError:
        if "nsupported gpu architecture" in said:
            _, listed = _run([self.path, "--list-gpu-code"])
            known = re.findall(r"^sm_\w+$", listed, re.MULTILINE)
            return _unknown_architecture(self.name, architectures, known)
        return _compile_failure(f"{self.name}, exit {code}", said, source)


def find_nvcc() -> Nvcc | None:
    """nvcc on PATH, in CUDA_HOME/bin or in /usr/local/cuda/bin."""
    for place in (None, *(str(toolkit / "bin") for toolkit in _toolkits())):
        if found := find_program("nvcc", place):
            return Nvcc(found)
    return None


def _toolkits() -> list[Path]:
    """Where a CUDA toolkit may be installed."""
    home = os.environ.get("CUDA_HOME")
    return [*([Path(home)] if home else []), _CONVENTIONAL_TOOLKIT]


def _host_compiler() -> bool:
    """Whether nvcc finds the C++ compiler that it preprocesses with, for device code too."""
    return bool(os.environ.get("NVCC_CCBIN") or find_program("gcc"))


@cache
def _nvcc_version(path: str) -> str:
    _, said = _run([path, "--version"])
    found = re.search(r"\bV(\d+\.\d+\.\d+)", said)
    return found[1] if found else "of unknown version"


def _run(command: Sequence[str], directory: str | None = None) -> tuple[int, str]:
    """Exit code and output of a program. Raises ToolchainError if it cannot be started."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment(without=_NOT_PASSED_ON),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        raise ToolchainError(f"{command[0]} cannot be started: {error.strerror}; it is taken for nvcc, the CUDA compiler") from error
    return done.returncode, done.stdout.decode(errors="replace")


# --- NVRTC and nvFatbin


@dataclass(frozen=True)
class Nvrtc:
    """NVRTC, the compiler as a library, and nvFatbin, which packs what it makes. ``include`` are directories of headers."""

    nvrtc: ctypes.CDLL
    nvfatbin: ctypes.CDLL
    include: tuple[Path, ...]

    @property
    def name(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self.nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        return f"NVRTC {major.value}.{minor.value}"

    @property
    def identity(self) -> str:
        return ", ".join([self.name, *(_file_identity(library._name) for library in (self.nvrtc, self.nvfatbin))])

    def compile(self, source: str, architectures: Sequence[Architecture]) -> bytes:
        """The fat binary of ``source``. Raises ToolchainError."""
        if unknown := [a for a in architectures if f"{a.major}{a.minor}" not in (known := self._known())]:
            raise _unknown_architecture(self.name, unknown, [f"sm_{number}" for number in known])
        ptx = ptx_architecture(architectures)
        # One after the other: NVRTC does most of its work under a lock of its own, so threads gain nothing.
        cubins = [(a, self._compile(source, f"sm_{a.number}", "CUBIN", architectures)) for a in architectures]
        return self._pack(cubins, ptx, self._compile(source, f"compute_{ptx.number}", "PTX", architectures))

    def _known(self) -> list[str]:
        """The architectures that NVRTC knows, as numbers: "75", "80"."""
        count = ctypes.c_int()
        self._check(self.nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "nvrtcGetNumSupportedArchs")
        numbers = (ctypes.c_int * count.value)()
        self._check(self.nvrtc.nvrtcGetSupportedArchs(numbers), "nvrtcGetSupportedArchs")
        return [str(number) for number in numbers]

    def _compile(self, source: str, target: str, kind: str, architectures: Sequence[Architecture]) -> bytes:
        """One image: ``kind`` is CUBIN or PTX."""
        options = [*_ARITHMETIC, "--disable-warnings", f"--gpu-architecture={target}", *(f"--include-path={path}" for path in self.include)]
        program = ctypes.c_void_p()
        self._check(
            self.nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), _SOURCE.encode(), 0, None, None), "nvrtcCreateProgram"
        )
        try:
            code = self.nvrtc.nvrtcCompileProgram(program, len(options), _strings(options))
            if code:
                said = self._get(program, "ProgramLog").decode(errors="replace")
                if "--gpu-architecture" in said:
                    raise _unknown_architecture(self.name, architectures, [f"sm_{number}" for number in self._known()])
                raise _compile_failure(f"{self.name}, error {code}", said, source)
            return self._get(program, kind)
        finally:
            self.nvrtc.nvrtcDestroyProgram(ctypes.byref(program))

    def _get(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self.nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
        data = ctypes.create_string_buffer(size.value)
        self._check(getattr(self.nvrtc, f"nvrtcGet{what}")(program, data), f"nvrtcGet{what}")
        return data.raw

    def _pack(self, cubins: Sequence[tuple[Architecture, bytes]], ptx: Architecture, text: bytes) -> bytes:
        """The fat binary of the cubins and of the PTX ``text`` (with its NUL)."""
        options = ["-host=linux", "-64", "-compress=false"]
        handle, size = ctypes.c_void_p(), ctypes.c_size_t()
        self._check(self.nvfatbin.nvFatbinCreate(ctypes.byref(handle), _strings(options), ctypes.c_size_t(len(options))), "nvFatbinCreate")
        try:
            for architecture, cubin in cubins:
                number, length = architecture.number.encode(), ctypes.c_size_t(len(cubin))
                self._check(self.nvfatbin.nvFatbinAddCubin(handle, cubin, length, number, None), "nvFatbinAddCubin")
            number, length = ptx.number.encode(), ctypes.c_size_t(len(text))
            self._check(self.nvfatbin.nvFatbinAddPTX(handle, text, length, number, None, b"--fmad=false"), "nvFatbinAddPTX")
            self._check(self.nvfatbin.nvFatbinSize(handle, ctypes.byref(size)), "nvFatbinSize")
            data = ctypes.create_string_buffer(size.value)
            self._check(self.nvfatbin.nvFatbinGet(handle, data), "nvFatbinGet")
        finally:
            self.nvfatbin.nvFatbinDestroy(ctypes.byref(handle))
        return data.raw

    @staticmethod
    def _check(code: int, function: str) -> None:
        if code:
            raise ToolchainError(f"{function} failed with error {code}; reinstall NVRTC and nvFatbin (pip install 'aprgraph[cuda]')")


@cache
def find_nvrtc() -> Nvrtc | None:
    """NVRTC and nvFatbin of the Python packages, or of the system, with headers; None if any of the three is missing."""
    packages = _package_directories()
    nvrtc, nvfatbin = (_load(f"{name}.so.13", packages) for name in ("libnvrtc", "libnvfatbin"))
    folders = [root / "include" for root in (*packages, *_toolkits())]
    # libcu++, which CCCL has, lies in a folder of its own since CUDA 13.
    headers = next((f for f in folders if (f / "cuda_fp16.h").is_file() and (f / "cccl/cuda/std/cstdint").is_file()), None)
    if nvrtc is None or nvfatbin is None or headers is None:
        return None
    return Nvrtc(nvrtc, nvfatbin, (headers, headers / "cccl"))


def _package_directories() -> list[Path]:
    """Where NVIDIA's Python packages for CUDA 13 lie: nvidia/cu13 of each folder of packages."""
    found = find_spec("nvidia")
    return [Path(place, "cu13") for place in (found.submodule_search_locations or [] if found else [])]


def _load(name: str, packages: Sequence[Path]) -> ctypes.CDLL | None:
    """The library ``name`` of the packages, else of the system; None if there is neither."""
    places = [str(path / "lib" / name) for path in packages if (path / "lib" / name).is_file()]
    try:
        return ctypes.CDLL((places or [name])[0])
    except OSError:
        return None


def _file_identity(path: str) -> str:
    """Path, size and time of a file; of a library that the system found by its name, the name."""
    try:
        found = Path(path).resolve().stat()
    except OSError:
        return path
    return f"{path} ({found.st_size} bytes, {found.st_mtime_ns})"


def _strings(texts: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))


# --- what went wrong


def _unknown_architecture(compiler: str, architectures: Sequence[Architecture], known: Sequence[str]) -> ToolchainError:
    unknown = [a for a in architectures if f"sm_{a.major}{a.minor}" not in known] or architectures
    hint = "; GPUs before sm_75 need nvcc of a CUDA 12 toolkit" if min(unknown) < Architecture(7, 5) else ""
    return ToolchainError(f"{compiler} cannot compile for {', '.join(map(str, unknown))}; it knows {', '.join(known)}{hint}")


def _compile_failure(compiler: str, said: str, source: str) -> ToolchainError:
    """The compiler's first error, with the line of the source that it names, as nobody has the source in a file."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = next((line for line in lines if re.search(r"\b(error|fatal)\b.*:", line)), (lines or ["no message"])[-1])
    place = re.match(rf"{re.escape(_SOURCE)}\((\d+)\)", first)
    line = dict(enumerate(source.splitlines(), start=1)).get(int(place[1])) if place else None
    quoted = f", in {shown(line.strip())}" if line is not None else ""
    return ToolchainError(f"compiling the CUDA kernels failed ({compiler}): {first}{quoted}")
