"""The cache of compiled kernels on disk. All models of a user share it.

    <cache>/kernels/<kernel>.<CPU level>.<key>.o           the object file of one kernel
    <cache>/kernels/<n>-kernels.<architectures>.<key>.cuda  all CUDA kernels of a model (cuda/library.py)

The key is a digest of everything that the code depends on: the request, the target, the version of TVM, and the
sources that emit the code (sources.py), and of the name of this user's key: users of one cache do not replace each other's
files. So a file is never out of date. No lock is needed: two processes that write
the same file write the same bytes.

A file ends with a message authentication code of its name and content, by this user's key (trust/key.py): a cache may
lie where others can write, or be unpacked from what others made. A file that is damaged, or that this user's programs did
not make, counts as missing, and its kernel is compiled again. The modification time of a file is the time of its last
use, by which contents.py removes files.
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
from aprgraph.codegen.trust.key import Key, user_key
from aprgraph.graph.whole_file import write_whole

_CODE_DIGITS = 64
_PURPOSE = "kernel"
_KEY_DIGITS = 32


@dataclass(frozen=True)
class KernelCache:
    """The compiled kernels in ``folder`` that ``key`` vouches for. If the folder is None, nothing is found or kept."""

    folder: Path | None
    key: Key

    def find(self, name: str) -> bytes | None:
        """The content of the file ``name``; None where it is missing, cannot be read or is damaged."""
        if self.folder is None:
            return None
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        content, code = data[:-_CODE_DIGITS], data[-_CODE_DIGITS:]
        if not self.key.made(code.decode(errors="replace"), _PURPOSE, name.encode(), content):
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
            write_whole(self.folder / name, content + self.key.code(_PURPOSE, name.encode(), content).encode())


def open_kernel_cache() -> KernelCache:
    """The kernels of the user's cache. Raises AprgraphError for an APRGRAPH_CACHE_SIZE that is not a size."""
    base, key = (cache_folder() if size_limit() else None), user_key()
    # With a key that ends with this process, nobody will know what is kept.
    return KernelCache(None if base is None or key.why is not None else base / KERNELS_FOLDER, key)


def key_of(*parts: Any) -> str:
    """The digest of ``parts``, which are values that JSON can hold, and of this user's key, as 32 hex digits."""
    return hashlib.sha256(json.dumps([*parts, user_key().name], sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]
