"""What benchmarks measure and how they say it: a row a measurement; what commands cost, each in processes of their own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: What a process runs on unless it is told otherwise.
PROCESSORS = len(os.sched_getaffinity(0))
APRGRAPH = (sys.executable, "-c", "from aprgraph.cli import main; main()")


@dataclass(frozen=True)
class Row:
    """What something costs beside a peer that took turns with it.

    ``seconds`` are medians over the rounds. ``ratio`` is how many times as fast as the peer: the median of the ratios within a round,
    ``low`` and ``high`` the least and the most of them. ``memory`` is what our side had resident at most, in bytes, pages of files
    included; None where nothing tells it, or where both sides share a process.
    """

    group: str
    what: str
    peer: str
    seconds: float
    peer_seconds: float
    low: float
    ratio: float
    high: float
    rounds: int
    threads: int
    memory: int | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        group: str,
        what: str,
        peer: str,
        ours: Sequence[float],
        theirs: Sequence[float],
        threads: int,
        memory: int | None = None,
        note: str = "",
    ) -> Row:
        """From the seconds of each round, one or more, on both sides."""
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        low, ratio, high = ratios[0], statistics.median(ratios), ratios[-1]
        medians = statistics.median(ours), statistics.median(theirs)
        return cls(group, what, peer, *medians, low, ratio, high, len(ratios), threads, memory, note)

    @property
    def key(self) -> tuple[str, str, str]:
        """What is measured, whatever comes out."""
        return self.group, self.what, self.peer

    def line(self) -> str:
        memory = f"{self.memory / 1e6:5.0f} MB" if self.memory is not None else ""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        ratio = f"{self.ratio:6.3g} ({self.low:.3g} to {self.high:.3g}) times as fast as {self.peer}, {duration(self.peer_seconds)}"
        return "  ".join(filter(None, (f"{self.what:64}", f"{duration(self.seconds):>9}", ratio, threads, memory, self.note)))


@dataclass(frozen=True)
class Failure:
    """What could not be measured, and why."""

    group: str
    what: str
    why: str

    def line(self) -> str:
        return f"{self.what}: FAILED: {self.why}"


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def tried(group: str, what: str, measurement: Callable[[], Iterable[Row | Failure]]) -> Iterator[Row | Failure]:
    """The rows of one measurement; what it dies of is a row, so that the others go on."""
    try:
        yield from measurement()
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- a benchmark outlives whatever one of its rows meets
        why = str(error) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        yield Failure(group, what, why.removeprefix("error: "))


def show(found: Iterable[Row | Failure]) -> int:
    """Print rows as they come. Returns the exit code: 1 where one failed."""
    failed = False
    for each in found:
        print(each.line(), flush=True)
        failed |= isinstance(each, Failure)
    return int(failed)


def reset_peak(pid: int) -> None:
    """Let the peak memory of a process begin with what it has now; where the system does not let us, it stays."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak(pid: int) -> int | None:
    """The largest resident set of a process since its start or `reset_peak`, in bytes; None where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each call by ``clock``, in each round but the first."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if number:
                taken[name].append(clock() - start)
    return taken


@dataclass(frozen=True)
class Cost:
    """Of one or several processes: seconds, those of processors (which other programs stretch less), the largest resident set of
    one in bytes, bytes that came from the disk.
    """

    seconds: float
    memory: int
    disk: int
    processors: float


def measure(commands: Sequence[Sequence[str]], codes: Collection[int] = (0,), environment: Mapping[str, str] | None = None) -> Cost:
    """Run commands one after another. Exits where one ends with another exit code than ``codes``.

    The system counts the peak memory of this process, at the time of the fork, among that of its children: it has to be small.
    """
    memory = blocks = 0
    processors = 0.0
    start = time.perf_counter()
    for command in commands:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=None if environment is None else {**os.environ, **environment})
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
