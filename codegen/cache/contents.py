"""The content of the user's cache: list it, trim it to its limit, clear it.

Only files that this program wrote are counted or removed. Trimming spares what was used in the last ten minutes, even
beyond the limit: a process may be about to load it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aprgraph.codegen.cache.folder import KERNELS_FOLDER, cache_folder, size_limit
from aprgraph.graph.claimed_names import is_abandoned

Kind = Literal["kernel", "cuda", "artifact", "remainder"]

_KERNEL = re.compile(r"[^.][^/]*\.[0-9a-f]{32}\.(o|cuda)")
_ARTIFACT = re.compile(r"[^.].*\.(llvm|cuda|reference)\.[0-9a-f]{24}\.aprg")
#: Names of files that a process left when it was killed while writing.
_REMAINDER = re.compile(r"\..*\.(tmp|aprg\.(old\.)?\w+)")
_IN_USE_SECONDS = 600
_REMAINDER_SECONDS = 3600
_TRIM_SECONDS = 60
#: When this process last trimmed each cache, by its monotonic clock.
_trimmed: dict[Path, float] = {}


@dataclass(frozen=True)
class Entry:
    """One file or folder of the cache.

    ``kind`` is "kernel" (a CPU kernel), "cuda" (the CUDA kernels of a model), "artifact", or "remainder" (left half
    written by a process that was killed). ``used`` is the time of the last use, in seconds since the epoch.
    """

    kind: Kind
    path: Path
    nbytes: int
    used: float

    def remove(self) -> None:
        """Remove the entry. An OSError is ignored."""
        if self.path.is_dir():
            # Rename it first, so that no other process finds half an artifact.
            aside = self.path.with_name(f".{self.path.name.lstrip('.')}.{os.getpid()}")
            with contextlib.suppress(OSError):
                shutil.rmtree(self.path.rename(aside), ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                self.path.unlink()


def list_cache(folder: Path | None = None) -> list[Entry]:
    """The entries of the cache in ``folder`` (default: the user's), least recently used first.

    Raises OSError if the folder cannot be read.
    """
    base = folder or cache_folder()
    if base is None:
        return []
    return sorted([*_files(base / KERNELS_FOLDER), *_folders(base)], key=lambda entry: (entry.used, entry.path))


def trim_cache() -> list[Entry]:
    """Remove the least recently used entries until the rest fits APRGRAPH_CACHE_SIZE. Returns those removed.

    Raises AprgraphError for a value of that variable that is not a size.
    """
    limit, now = size_limit(), time.time()
    removed = []
    with contextlib.suppress(OSError):  # a cache that cannot be read holds nothing that could be removed
        entries = list_cache()
        total = sum(entry.nbytes for entry in entries)
        for entry in entries:
            abandoned = entry.kind == "remainder" and now - entry.used > _REMAINDER_SECONDS and is_abandoned(str(entry.path))
            if abandoned or (total > limit and now - entry.used > _IN_USE_SECONDS):
                entry.remove()
                removed.append(entry)
                total -= entry.nbytes
    return removed


def trim_cache_when_due() -> None:
    """``trim_cache``, at most once a minute in a process: what it wrote since is spared anyway, and reading the folder takes time.

    Raises AprgraphError for an APRGRAPH_CACHE_SIZE that is not a size.
    """
    base, now = cache_folder(), time.monotonic()
    if base is not None and now - _trimmed.get(base, -math.inf) > _TRIM_SECONDS:
        trim_cache()
        _trimmed[base] = now


def clear_cache() -> list[Entry]:
    """Remove all entries of the user's cache and return them. Raises OSError if it cannot be read."""
    base = cache_folder()
    entries = list_cache(base)
    for entry in entries:
        entry.remove()
    if base is not None:
        for folder in (base / KERNELS_FOLDER, base):
            with contextlib.suppress(OSError):  # not there, or it holds something else
                folder.rmdir()
    return entries


def bytes_of(entries: Sequence[Entry]) -> int:
    """The size of ``entries`` in bytes."""
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
