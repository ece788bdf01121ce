"""Builds the emulated CUDA toolkit, once a machine and state of its sources: bin/nvcc, libcuda.so.1 and libcudart.so.13."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.kept import KEPT

from .toolchain.host_compiler import KernelLibrary, compile_kernels, host_compiler

_HERE = Path(__file__).parent
_ENGINE = "libcuda_emulator.so"
_FLAGS = ("-std=c++20", "-O1", "-fPIC", "-fcf-protection=none", "-U_FORTIFY_SOURCE")
_LINK = ("-shared", "-Wl,-z,defs", "-Wl,-rpath,$ORIGIN", "-Wl,--enable-new-dtags")
_KEPT_SECONDS = 30 * 86400
#: The libraries over the engine, by the one source file of each.
_THIN = {"driver": ("libcuda.so.1", ()), "runtime": ("libcudart.so.13", ("-Wl,--version-script=engine/libcudart.map",))}


class NoHostCompiler(Exception):
    """There is no g++ 12 or later, without which nothing can be emulated."""


@dataclass(frozen=True)
class Toolkit:
    """The emulated toolkit: its folder, as CUDA_HOME would name one."""

    path: Path

    @property
    def engine(self) -> Path:
        """The library that runs kernels."""
        return self.path / "lib64" / _ENGINE

    def environment(self, settings: Mapping[str, object] | None = None) -> dict[str, str]:
        """Variables for a subprocess whose CUDA is to be this one: PATH, LD_LIBRARY_PATH and CUDA_HOME, over this process's own.

        ``settings`` are APRGRAPH_EMULATED_… without that beginning, in any case: ``{"arch": "9.0", "memory": 1 << 20}``.
        They are listed in engine/settings.h.
        """
        first = {"PATH": self.path / "bin", "LD_LIBRARY_PATH": self.path / "lib64"}
        found = {name: os.pathsep.join(filter(None, (str(place), os.environ.get(name)))) for name, place in first.items()}
        found["CUDA_HOME"] = str(self.path)
        return found | {f"APRGRAPH_EMULATED_{name.upper()}": str(value) for name, value in (settings or {}).items()}

    def compile(self, source: str) -> KernelLibrary:
        """A library of the kernels in CUDA ``source``. Raises CompileError."""
        return compile_kernels(source, self.path / "include", _cache() / "kernels")


@cache
def toolkit() -> Toolkit:
    """The toolkit, built if there is none of these sources yet. Raises NoHostCompiler."""
    if host_compiler() is None:
        raise NoHostCompiler("no g++ 12 or later")
    path = _cache() / f"toolkit-{_digest()}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_old(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as directory:
            built = Path(directory, "toolkit")
            _build(built, path)
            try:
                built.rename(path)
            except OSError:  # another process was faster
                if not path.exists():
                    raise
    return Toolkit(path)


def _remove_old(folder: Path) -> None:
    """What was made more than a month ago for sources that have changed since, most likely."""
    for path in (*folder.glob("toolkit-*"), *folder.glob("kernels/*")):
        with contextlib.suppress(FileNotFoundError):  # another process removes it as well
            if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _cache() -> Path:
    return KEPT / "cuda-emulator"


def _digest() -> str:
    digest = hashlib.sha256(f"{sys.executable}\0{host_compiler()}\0{_FLAGS}".encode())
    sources = [path for folder in ("include", "engine", "toolchain") for path in (_HERE / folder).iterdir() if path.is_file()]
    for path in sorted([*sources, Path(__file__)]):
        digest.update(f"{path.relative_to(_HERE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(built: Path, final: Path) -> None:
    """Build into ``built``, for use at ``final``."""
    shutil.copytree(_HERE / "include", built / "include")
    shutil.copytree(_HERE / "toolchain", built / "toolchain", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(_HERE / "engine", built / "engine")
    _build_libraries(built)
    # nvcc is found by name on PATH, and knows its own folder.
    program = (
        f"import sys; sys.path.insert(0, {str(final)!r}); from toolchain.nvcc import main; sys.exit(main(*sys.argv[1:3], sys.argv[3:]))"
    )
    command = shlex.join([sys.executable, "-I", "-S", "-c", program, str(final / "include"), str(_cache() / "kernels")])
    (built / "bin").mkdir()
    nvcc = built / "bin/nvcc"
    nvcc.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    nvcc.chmod(0o755)


def _build_libraries(built: Path) -> None:
    compiler = host_compiler()
    (built / "lib64").mkdir()
    # The engine's files as one: reading the standard headers is most of what compiling each of them takes.
    names = sorted(source.name for source in (built / "engine").glob("*.cpp") if source.stem not in _THIN)
    (built / "engine/engine.cpp").write_text("".join(f'#include "{name}"\n' for name in names), encoding="utf-8")
    stems = ["engine", *_THIN]
    _run_together([[compiler, *_FLAGS, "-Iinclude", "-c", f"engine/{stem}.cpp", "-o", f"engine/{stem}.o"] for stem in stems], built)
    _run_together([[compiler, *_LINK, f"-Wl,-soname,{_ENGINE}", "engine/engine.o", "-o", f"lib64/{_ENGINE}"]], built)
    thin = [
        [compiler, *_LINK, f"-Wl,-soname,{name}", *options, f"engine/{stem}.o", "-Llib64", "-lcuda_emulator", "-o", f"lib64/{name}"]
        for stem, (name, options) in _THIN.items()
    ]
    _run_together(thin, built)


def _run_together(commands: list[list[str]], directory: Path) -> None:
    """Run the commands, a few at a time; raise RuntimeError with what the first said that failed."""
    at_once = min(4, os.cpu_count() or 1)
    waiting = list(commands)
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(subprocess.Popen(waiting.pop(0), cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        first = running.pop(0)
        said, _ = first.communicate()
        if first.returncode:
            for other in running:
                other.communicate()
            raise RuntimeError(f"building the CUDA emulator failed:\n{said.decode(errors='replace')}")
