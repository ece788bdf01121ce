"""The cache of compiled kernels on disk. All models of a user share it.

    <cache>/kernels/<kernel>.<CPU level>.<key>.o           the object file of one kernel
    <cache>/kernels/<n>-kernels.<architectures>.<key>.cuda  all CUDA kernels of a model (cuda/library.py)

The key is a digest of everything that the code depends on: the request, the target, the version of TVM, and the
sources that emit the code (sources.py). So a file is never out of date. No lock is needed: two processes that write
the same file write the same bytes.

A file ends with the SHA-256 digest of its content. A damaged file counts as missing, and its kernel is compiled
again. The modification time of a file is the time of its last use, by which contents.py removes files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprgraph.codegen.cache.folder import KERNELS_FOLDER, cache_folder, size_limit
from aprgraph.graph.whole_file import write_whole

_DIGEST_BYTES = hashlib.sha256().digest_size
_KEY_DIGITS = 32


@dataclass(frozen=True)
class KernelCache:
    """The compiled kernels in ``folder``. If it is None, nothing is found or kept."""

    folder: Path | None

    def find(self, name: str) -> bytes | None:
        """The content of the file ``name``; None where it is missing, cannot be read or is damaged."""
        if self.folder is None:
            return None
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        content, end = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != end:
            return None
        with contextlib.suppress(OSError):  # such as a read-only cache of another user
            os.utime(path)
        return content

    def keep(self, name: str, content: bytes) -> None:
        """Write the file ``name``. An OSError is ignored, since the cache only saves time."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / name, content + hashlib.sha256(content).digest())


def open_kernel_cache() -> KernelCache:
    """The kernels of the user's cache. Raises AprgraphError for an APRGRAPH_CACHE_SIZE that is not a size."""
    base = cache_folder() if size_limit() else None
    return KernelCache(None if base is None else base / KERNELS_FOLDER)


def key_of(*parts: Any) -> str:
    """The digest of ``parts``, which are values that JSON can hold, as 32 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]
