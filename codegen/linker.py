"""Object files: taken out of what TVM compiled, and linked into a shared object by whatever links like a C compiler."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aprgraph.codegen.file_in_memory import OBJECT_ROOM, file_in_memory
from aprgraph.codegen.programs import environment, find_program
from aprgraph.graph.errors import ToolchainError
from aprgraph.graph.temporary_files import temporary_folder


def linker() -> list[str]:
    """A command that links like a C compiler: cc, gcc or clang if installed, else the ziglang package's.

    Raises ToolchainError.
    """
    for name in ("cc", "gcc", "clang"):
        if found := find_program(name):
            return [found]
    ziglang = importlib.util.find_spec("ziglang")
    for folder in (ziglang.submodule_search_locations or []) if ziglang is not None else []:
        # The program itself: `python -m ziglang` would look into the current folder first.
        if (zig := Path(folder, "zig")).is_file():
            return [str(zig), "cc"]
    raise ToolchainError(
        "no linker: kernels are compiled by TVM, but linking them needs cc, gcc or clang, or the Python package ziglang; "
        "install one (pip install 'aprgraph[linker]')"
    )


def object_of(module: Any) -> bytes:
    """The object file of a module that TVM compiled by LLVM. Raises ToolchainError."""
    return file_in_memory(lambda name: module.write_to_file(name, "o"), room=OBJECT_ROOM)


def link(objects: Sequence[bytes], path: Path) -> None:
    """Link object files, given as their bytes, into the shared object ``path``. Raises ToolchainError or OSError."""
    with temporary_folder() as folder:
        names = []
        for index, data in enumerate(objects):
            file = folder / f"{index}.o"
            file.write_bytes(data)
            names.append(str(file))
        link_files(path, names)


def link_files(path: Path, objects: Sequence[str]) -> None:
    """Link the object files named ``objects`` into the shared object ``path``. Raises ToolchainError."""
    command = [*linker(), "-shared", "-fPIC", "-o", str(path), *objects, "-lm"]
    with tempfile.TemporaryFile() as log:
        code = subprocess.run(command, stdout=log, stderr=log, env=environment(), check=False).returncode
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    if code:
        raise ToolchainError(f"linking the kernels failed ({command[0]}, exit {code}): {said[-1] if said else 'no message'}")
