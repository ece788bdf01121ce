"""Compiled kernels on disk, by the content of what was asked for, shared by all models of a user.

    <cache>/kernels/<kernel>.<CPU level>.<key>.o           the object file of one kernel
    <cache>/kernels/<n>-kernels.<architectures>.<key>.cuda  all CUDA kernels of a model (cuda/library.py)

The key is a digest of everything that the code depends on: the request, the target, the version of TVM and the sources
that emit the code (sources.py). So a file is never out of date, and two processes that write the same one write the same
bytes: no lock is needed. A file ends with the SHA-256 digest of what is before it. One that is damaged counts as missing,
and is compiled again. The time of the last use is the file's time of modification (contents.py goes by it).
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
    """The kernels in ``folder``. With None nothing is found or kept."""

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
        with contextlib.suppress(OSError):  # another user's cache that is read only
            os.utime(path)
        return content

    def keep(self, name: str, content: bytes) -> None:
        """Write the file ``name``. A cache that cannot be written is passed over: it only saves time."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / name, content + hashlib.sha256(content).digest())


def open_kernel_cache() -> KernelCache:
    """The kernels of the user's cache. Raises AprgraphError for an APRGRAPH_CACHE_SIZE that is no size."""
    base = cache_folder() if size_limit() else None
    return KernelCache(None if base is None else base / KERNELS_FOLDER)


def key_of(*parts: Any) -> str:
    """A digest of ``parts``, values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]
