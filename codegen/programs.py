"""Programs of the system that compiling starts: found in the folders of PATH that have a whole path, never in the current folder.

An empty entry of PATH, or ".", means the folder that one happens to be in, which may be one that was downloaded.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def find_program(name: str, folder: str | None = None) -> str | None:
    """The path of the program ``name``, in ``folder`` or else on PATH; None if it is not there."""
    return shutil.which(name, path=safe_path() if folder is None else folder)


def environment(without: tuple[str, ...] = ()) -> dict[str, str]:
    """The environment for a program, which may start others by name: without some variables, and with such a PATH."""
    return {**{name: value for name, value in os.environ.items() if name not in without}, "PATH": safe_path()}


def safe_path() -> str:
    """The entries of PATH that are whole paths."""
    return os.pathsep.join(entry for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(entry).is_absolute())
