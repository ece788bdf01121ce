"""Machine code in memory, as it was verified: what is loaded is what was looked at, whatever happens to its file meanwhile."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

# Linux's numbers (fcntl.h, memfd.h), which Python's fcntl lacks in 3.10: nobody may write, grow or shrink the file any more.
_ADD_SEALS = getattr(fcntl, "F_ADD_SEALS", 1033)
_SEALS = 0x1 | 0x2 | 0x4 | 0x8
#: The descriptors of what was loaded, by digest, the latest last; at most so many: of more, the oldest is hardly in use any more.
_OPEN: dict[bytes, int] = {}
_MOST_OPEN = 64
_LOCK = threading.Lock()
#: The start of every ELF file of 64 bits, little-endian; where the number of its machine stands; and those that are known (elf.h).
_ELF, _MACHINE_AT = b"\x7fELF\x02\x01", 18
_MACHINES = {62: "x86_64", 183: "aarch64"}


@dataclass(frozen=True)
class MachineCode:
    """A library, or kernels for a GPU. ``place`` is the file that they were read from, which errors name."""

    data: bytes = field(repr=False)
    place: Path

    @property
    def machine(self) -> str | None:
        """The machine that a library is for, as uname(2) names it; None for what is no library, or of another machine."""
        if not self.data.startswith(_ELF):
            return None
        return _MACHINES.get(int.from_bytes(self.data[_MACHINE_AT : _MACHINE_AT + 2], "little"))

    def path(self) -> str:
        """The path of a file in memory that holds ``data``, for the system's loader. Raises OSError.

        It stays open: whoever writes a backtrace, as TVM for each of its errors, opens the library by its path again, and maps what is
        there into memory. Another file, of another size, would end the process (SIGBUS).

        The loader takes a library for one that is loaded already if only the path is the same, and numbers of descriptors may come
        again. So the path is written with a detour ("/." or "//.") for each bit of a digest: other content, another path.
        """
        digest = hashlib.sha256(self.data).digest()
        bits = int.from_bytes(digest[:12], "big")
        detours = "".join("//." if bits >> bit & 1 else "/." for bit in range(96))
        with _LOCK:
            descriptor = _OPEN.pop(digest) if digest in _OPEN else self._in_memory()
            _OPEN[digest] = descriptor
            if len(_OPEN) > _MOST_OPEN:
                os.close(_OPEN.pop(next(iter(_OPEN))))
        return f"/proc/self/fd{detours}/{descriptor}"

    def _in_memory(self) -> int:
        """The descriptor of a sealed file with the data. Raises OSError."""
        descriptor = os.memfd_create(self.place.name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(self.data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            fcntl.fcntl(descriptor, _ADD_SEALS, _SEALS)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
