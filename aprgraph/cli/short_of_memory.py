"""What runs out of memory says so in many ways: as MemoryError, in the words of C++ or of the system, or, where a library could not be
mapped, as whatever then is not there.
"""

from __future__ import annotations

import resource
from pathlib import Path

_WORDS = ("bad_alloc", "Cannot allocate memory", "cannot allocate memory", "Resource temporarily unavailable", "cannot map")
#: With less than this left below a limit of the address space, what failed failed for that: a library of TVM's takes about as much.
_LEFT = 256 << 20


def why_short_of_memory(error: BaseException) -> str | None:
    """What an exception says of the memory that is missing, which may be nothing; None for one that has another cause."""
    if isinstance(error, MemoryError):
        return str(error)
    said: BaseException | None = error
    while said is not None:
        if any(word in str(said) for word in _WORDS):
            return "memory or a thread was refused"
        said = said.__cause__ or said.__context__
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return None
    if used + _LEFT < limit:
        return None
    mapped = f"{used >> 20} of the {limit >> 20} MB that this process may map (`ulimit -v` of the shell) are mapped"
    return f"{mapped}, and {type(error).__name__} came of it"
