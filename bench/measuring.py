"""What commands cost, each in processes of their own: time, peak memory, and what came from the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Of one or several processes: seconds, those of processors (which other programs stretch less), the largest resident set of
    one in bytes, bytes that came from the disk.
    """

    seconds: float
    memory: int
    disk: int
    processors: float


def measure(commands: Sequence[Sequence[str]], codes: Collection[int] = (0,)) -> Cost:
    """Run commands one after another. Exits where one ends with another exit code than ``codes``."""
    memory = blocks = 0
    processors = 0.0
    start = time.perf_counter()
    for command in commands:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in codes:
            sys.exit(f"error: {' '.join(command)} ended with exit code {process.returncode}")
        memory, blocks = max(memory, usage.ru_maxrss * 1024), blocks + usage.ru_inblock
        processors += usage.ru_utime + usage.ru_stime
    return Cost(time.perf_counter() - start, memory, blocks * 512, processors)


def empty_cache(paths: Iterable[Path]) -> None:
    """Take files out of the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
