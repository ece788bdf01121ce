"""What TVM writes, caught in memory: it does not notice when a disk is full, and LLVM ends the process then."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable

from aprgraph.graph.errors import ToolchainError

#: What LLVM must be free to write. The largest object has a few MB.
OBJECT_ROOM = 64 << 20


def file_in_memory(write: Callable[[str], None], *, room: int = 0) -> bytes:
    """The content of the file that ``write``, given its name, writes whole.

    The limit for sizes of files (setrlimit(2), RLIMIT_FSIZE) is for those in memory too. Raises ToolchainError where it is less than
    ``room`` bytes, or has cut the file.
    """
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    limit = math.inf if soft == resource.RLIM_INFINITY else soft
    if limit < room:
        raise _too_low(limit, room)
    with os.fdopen(os.memfd_create("compiled"), "rb") as file:
        write(f"/proc/self/fd/{file.fileno()}")
        data = file.read()
    if len(data) >= limit:
        raise _too_low(limit, len(data) + 1)
    return data


def _too_low(limit: float, needed: int) -> ToolchainError:
    return ToolchainError(
        f"files may have {limit:,} bytes here, expected at least {needed:,} to compile with; raise the limit (`ulimit -f` of the shell)"
    )
