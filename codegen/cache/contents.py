"""What the user's cache holds: listed, kept within its limit, cleared.

Only what this program put there is counted or removed. What was used in the last minutes stays even beyond the limit: a
process may be about to load it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aprgraph.codegen.cache.folder import COMPILED_FOLDER, KERNELS_FOLDER, cache_folder, size_limit

Kind = Literal["kernel", "cuda", "artifact", "remainder"]

_KERNEL = re.compile(r"[^.][^/]*\.[0-9a-f]{32}\.(o|cuda)")
_ARTIFACT = re.compile(r"[^.].*\.(llvm|cuda|reference)\.[0-9a-f]{24}\.aprg")
#: Left by a process that was killed while it wrote.
_REMAINDER = re.compile(r"\..*\.(tmp|aprg\.(old\.)?\w+)")
_IN_USE_SECONDS = 600
_REMAINDER_SECONDS = 3600


@dataclass(frozen=True)
class Entry:
    """One thing in the cache.

    ``kind`` is a kernel for CPUs, the CUDA kernels of a model, an artifact, or what a killed process left half
    written. ``used`` is the time of its last use, in seconds since the epoch.
    """

    kind: Kind
    path: Path
    nbytes: int
    used: float

    def remove(self) -> None:
        """Remove it, unless the system refuses."""
        if self.path.is_dir():
            # First under another name: whoever looks now finds no artifact, rather than half of one.
            aside = self.path.with_name(f".{self.path.name.lstrip('.')}.{os.getpid()}")
            with contextlib.suppress(OSError):
                shutil.rmtree(self.path.rename(aside), ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                self.path.unlink()


def list_cache(folder: Path | None = None) -> list[Entry]:
    """What the cache in ``folder`` (default: the user's) holds, longest unused first. Raises OSError where it cannot be read."""
    base = folder or cache_folder()
    if base is None:
        return []
    return sorted([*_files(base / KERNELS_FOLDER), *_folders(base)], key=lambda entry: (entry.used, entry.path))


def trim_cache() -> list[Entry]:
    """Remove what was unused for longest until the rest fits APRGRAPH_CACHE_SIZE, and return it. Raises AprgraphError."""
    limit, now = size_limit(), time.time()
    removed = []
    with contextlib.suppress(OSError):  # a cache that cannot be read holds nothing that could be removed
        entries = list_cache()
        total = sum(entry.nbytes for entry in entries)
        for entry in entries:
            abandoned = entry.kind == "remainder" and now - entry.used > _REMAINDER_SECONDS
            if abandoned or (total > limit and now - entry.used > _IN_USE_SECONDS):
                entry.remove()
                removed.append(entry)
                total -= entry.nbytes
    return removed


def clear_cache() -> list[Entry]:
    """Remove all that the user's cache holds, and return it. Raises OSError where it cannot be read."""
    base = cache_folder()
    entries = list_cache(base)
    for entry in entries:
        entry.remove()
    if base is not None:
        shutil.rmtree(base / COMPILED_FOLDER, ignore_errors=True)
        for folder in (base / KERNELS_FOLDER, base):
            with contextlib.suppress(OSError):  # not there, or it holds something else
                folder.rmdir()
    return entries


def bytes_of(entries: Sequence[Entry]) -> int:
    """How much they take together."""
    return sum(entry.nbytes for entry in entries)


def _files(folder: Path) -> Iterator[Entry]:
    for file in _scan(folder):
        kind: Kind | None = None
        if _KERNEL.fullmatch(file.name):
            kind = "cuda" if file.name.endswith(".cuda") else "kernel"
        elif _REMAINDER.fullmatch(file.name):
            kind = "remainder"
        if kind is not None:
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                found = file.stat(follow_symlinks=False)
                yield Entry(kind, Path(file.path), found.st_size, found.st_mtime)


def _folders(base: Path) -> Iterator[Entry]:
    for folder in _scan(base):
        kind: Kind = "artifact" if _ARTIFACT.fullmatch(folder.name) else "remainder"
        if kind == "remainder" and not _REMAINDER.fullmatch(folder.name):
            continue
        with contextlib.suppress(FileNotFoundError):
            if folder.is_dir(follow_symlinks=False):
                files = [path.lstat().st_size for path in Path(folder.path).rglob("*") if path.is_file()]
                yield Entry(kind, Path(folder.path), sum(files), folder.stat().st_mtime)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
