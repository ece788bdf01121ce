"""Machine code in memory, as it was verified: what is loaded is what was looked at, whatever happens to its file meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Linux's numbers (fcntl.h, memfd.h), which Python's fcntl lacks in 3.10: nobody may write, grow or shrink the file any more.
_ADD_SEALS = getattr(fcntl, "F_ADD_SEALS", 1033)
_SEALS = 0x1 | 0x2 | 0x4 | 0x8


@dataclass(frozen=True)
class MachineCode:
    """A library, or kernels for a GPU. ``place`` is the file that they were read from, which errors name."""

    data: bytes = field(repr=False)
    place: Path

    @contextlib.contextmanager
    def file(self) -> Iterator[str]:
        """The path of a file in memory that holds ``data``, for the system's loader. Raises OSError.

        The loader takes a library for one that is loaded already if only the path is the same, and numbers of descriptors come
        again. So the path is written with a detour ("/." or "//.") for each bit of a digest: other content, another path.
        """
        bits = int.from_bytes(hashlib.sha256(self.data).digest()[:12], "big")
        detours = "".join("//." if bits >> bit & 1 else "/." for bit in range(96))
        descriptor = os.memfd_create(self.place.name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.data)
            file.flush()
            fcntl.fcntl(descriptor, _ADD_SEALS, _SEALS)
            yield f"/proc/self/fd{detours}/{descriptor}"
