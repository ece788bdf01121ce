"""Lets calls fail that write files: `python -m tests.disk_faults COUNT [SEED]`, on Linux with a C compiler (tests/support/disk_faults.c).

A command then ends as it does without, or with 2 and one line; what it says is done is there and whole, and what was there before
is not lost. Without the fault it does as ever afterwards.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aprgraph.runtime.trace.manifest import MANIFEST, MARKER
from tests.interruptions import Subject, clean, prepare

ERRORS = (errno.ENOSPC, errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE)
#: The commands that write.
NAMES = (
    "run", "run in parts", "run cold", "run an artifact", "run, interpreted", "compile", "compile cold", "bisect", "diff", "audit", "weights",
    "graph",
)  # fmt: skip
_SOURCE = Path(__file__).parent / "support" / "disk_faults.c"
_STATE = 256
_MAIN = "from aprgraph.cli import main\nmain()"


@dataclass(frozen=True)
class Fault:
    """The call ``at`` fails with the error ``number``, and all later ones if it ``stays``."""

    at: int
    number: int
    stays: bool


@dataclass(frozen=True)
class Ending:
    """How a command ended; how many calls it made that write, how many of them failed, and the first of these in words."""

    code: int
    err: str
    calls: int
    failed: int
    first: str


class Disk:
    """A folder below which calls can be made to fail, with the folder ``work`` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "under" / "work"
        self.work.mkdir(parents=True)
        self._library, self._state = folder / "disk_faults.so", folder / "state"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", self._library, _SOURCE, "-ldl"], check=True)

    def run(self, subject: Subject, fault: Fault = Fault(0, 0, False)) -> Ending:
        """Run a command, with an empty cache if it is cold, else with a filled one."""
        under = self.work.parent
        cache, temporary = under / ("cold" if subject.cold else "cache"), under / "tmp"
        shutil.rmtree(under / "cold", ignore_errors=True)
        temporary.mkdir(exist_ok=True)
        self._state.write_bytes(bytes(_STATE))
        environment = {
            **os.environ, **subject.environment, "LD_PRELOAD": str(self._library), "FAULT_UNDER": f"{under}/",
            "FAULT_STATE": str(self._state), "FAULT_AT": str(fault.at), "FAULT_ERRNO": str(fault.number),
            "FAULT_STAYS": str(int(fault.stays)), "TMPDIR": str(temporary), "APRGRAPH_CACHE": str(cache),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", _MAIN, *subject.arguments], cwd=self.work, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=300, check=False,
        )  # fmt: skip
        calls, failed, first = struct.unpack(f"II{_STATE - 8}s", self._state.read_bytes())
        return Ending(done.returncode, done.stderr, calls, failed, first.partition(b"\0")[0].decode(errors="replace"))

    def outputs(self) -> dict[str, bytes]:
        """What commands wrote, but what changes from run to run."""
        places = [
            path
            for name in ("out", "out.aprg", "repro", "out.html", "out.svg")
            for path in (self.work / name, *(self.work / name).rglob("*"))
        ]
        return {path.relative_to(self.work).as_posix(): path.read_bytes() for path in places if path.is_file()}


def problem_of(disk: Disk, ending: Ending, usual: Ending, wanted: Mapping[str, bytes], before: Mapping[str, bytes]) -> str | None:
    """What is wrong with how a command ended of which a call failed: ``usual`` and ``wanted`` are without, ``before`` was there."""
    if "Traceback" in ending.err:
        return "a traceback"
    # What was written whole beside the file that failed is said too: the stage alone, and how to run it.
    lines = [line for line in ending.err.splitlines() if not line.startswith("note: ") and " alone: python " not in line]
    found = disk.outputs()
    if ending.code == usual.code:
        missing = [name for name in wanted if name not in found]
        return f"ended well without {missing[:3]}" if missing else None
    if ending.code != 2:
        return f"exit code {ending.code}"
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"{len(lines)} lines"
    out = disk.work / "out"
    if any(path.suffix == ".bin" for path in out.rglob("*")) and not (out / MANIFEST).exists() and not (out / MARKER).exists():
        return "left tensors that nothing says are not all"
    # An earlier trace goes when the next begins, as is promised; files and artifacts are replaced whole or not at all.
    lost = [name for name, data in before.items() if not name.startswith("out/") and found.get(name) not in (data, wanted.get(name))]
    return f"lost, or wrote half of, {lost[:3]}" if lost else None


def attempt(
    disk: Disk, subject: Subject, fault: Fault, usual: Ending, wanted: Mapping[str, bytes], *, again: bool
) -> tuple[Ending, str | None]:
    """Run with a fault, over what an earlier run left if ``again``, and then without. How it ended, and what is wrong with it."""
    clean(disk.work)
    if again:
        disk.run(subject)
    ending = disk.run(subject, fault)
    problem = problem_of(disk, ending, usual, wanted, disk.outputs() if again and ending.failed == 0 else wanted if again else {})
    hidden = [path for path in disk.work.rglob(".*") if path.name not in (".", "..")]
    if problem is None and hidden and not fault.stays and not ending.first.startswith(("unlink", "rmdir")):
        problem = f"left {hidden[:3]}"
    after = disk.run(subject)
    if problem is None and (after.code != usual.code or disk.outputs().keys() != wanted.keys()):
        problem = f"without the fault, afterwards: {after}"
    return ending, problem


def main() -> None:
    """Print how many ended how."""
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    chance = random.Random(seed)
    outcomes: Counter[tuple[str, int]] = Counter()
    with tempfile.TemporaryDirectory() as name:
        disk = Disk(Path(name))
        os.environ["APRGRAPH_CACHE"] = str(disk.work.parent / "cache")
        subjects = [subject for subject in prepare(disk.work) if subject.name in NAMES]
        usual: dict[str, tuple[Ending, Mapping[str, bytes]]] = {}
        for index in range(count):
            subject = subjects[index % len(subjects)]
            if subject.name not in usual:
                clean(disk.work)
                disk.run(subject)
                ending = disk.run(subject)
                assert ending.code in (0, 1), ending
                assert ending.calls, ending
                assert "Traceback" not in ending.err, ending
                usual[subject.name] = ending, disk.outputs()
                print(f"{subject.name}: {ending.calls} calls, {len(usual[subject.name][1])} files", flush=True)
            without, wanted = usual[subject.name]
            fault = Fault(chance.randint(1, max(1, without.calls)), chance.choice(ERRORS), chance.random() < 0.5)
            ending, problem = attempt(disk, subject, fault, without, wanted, again=chance.random() < 0.4)
            outcomes["PROBLEM" if problem else subject.name, ending.code] += 1
            said = ending.err.strip().splitlines()[-1:] or [""]
            print(f"{index + 1}: {subject.name}, {fault}: {ending.first}: {ending.code} {said[0][:200]}", flush=True)
            if problem:
                print(f"PROBLEM: {problem}\n{ending}", flush=True)
    for (name, code), times in sorted(outcomes.items()):
        print(f"{times:4} {name:20} {code}")
    sys.exit(any(name == "PROBLEM" for name, _ in outcomes))


if __name__ == "__main__":
    main()
