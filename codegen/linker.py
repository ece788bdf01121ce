"""Object files: taken out of what TVM compiled, and linked into a shared object by whatever links like a C compiler."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aprgraph.codegen.file_in_memory import OBJECT_ROOM, file_in_memory
from aprgraph.codegen.programs import environment, find_program
from aprgraph.graph.errors import ToolchainError
from aprgraph.graph.temporary_files import temporary_folder


def linker(machine: str | None = None) -> list[str]:
    """A command that links like a C compiler for ``machine``, as uname(2) names it (default: this one), else the ziglang package's.

    For this machine that is cc, gcc or clang if installed, for another GCC's cross compiler. Raises ToolchainError.
    """
    machine = machine or platform.machine()
    is_here = machine == platform.machine()
    for name in ("cc", "gcc", "clang") if is_here else (f"{machine}-linux-gnu-gcc",):
        if found := find_program(name):
            return [found]
    ziglang = importlib.util.find_spec("ziglang")
    for folder in (ziglang.submodule_search_locations or []) if ziglang is not None else []:
        # The program itself: `python -m ziglang` would look into the current folder first.
        if (zig := Path(folder, "zig")).is_file():
            return [str(zig), "cc", *([] if is_here else ["-target", f"{machine}-linux-gnu"])]
    if is_here:
        raise ToolchainError(
            "no linker: kernels are compiled by TVM, but linking them needs cc, gcc or clang, or the Python package ziglang; "
            "install one (pip install 'aprgraph[linker]')"
        )
    raise ToolchainError(
        f"no linker for {machine}: kernels are compiled by TVM, but linking them needs {machine}-linux-gnu-gcc (Debian's package "
        f"gcc-{machine.replace('_', '-')}-linux-gnu), or the Python package ziglang; install one (pip install 'aprgraph[linker]')"
    )


def object_of(module: Any) -> bytes:
    """The object file of a module that TVM compiled by LLVM. Raises ToolchainError."""
    return file_in_memory(lambda name: module.write_to_file(name, "o"), room=OBJECT_ROOM)


def link(objects: Sequence[bytes], path: Path, machine: str | None = None) -> None:
    """Link object files, given as their bytes, into the shared object ``path``; see ``linker`` for ``machine``.

    Raises ToolchainError or OSError.
    """
    with temporary_folder() as folder:
        names = []
        for index, data in enumerate(objects):
            file = folder / f"{index}.o"
            file.write_bytes(data)
            names.append(str(file))
        link_files(path, names, machine)


def link_files(path: Path, objects: Sequence[str], machine: str | None = None) -> None:
    """Link the object files named ``objects`` into the shared object ``path``. Raises ToolchainError."""
    command = [*linker(machine), "-shared", "-fPIC", "-o", str(path), *objects, "-lm"]
    with tempfile.TemporaryFile() as log:
        code = subprocess.run(command, stdout=log, stderr=log, env=environment(), check=False).returncode
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    if code:
        raise ToolchainError(f"linking the kernels failed ({command[0]}, exit {code}): {said[-1] if said else 'no message'}")
