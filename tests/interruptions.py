"""Sends signals at random moments to commands in processes of their own: `python -m tests.interruptions COUNT [SEED [SECONDS]]`.

The moments lie within SECONDS, or without it in the time that a command took when it was measured before. A command either ends as it does without, or with 128 and the signal's number and at most one line, and leaves nothing half-written.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from aprgraph.runtime.trace.manifest import MANIFEST, MARKER
from tests.support.cli import run_cli
from tests.support.tiny import write_tiny_model

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Whoever started this in the background may have it ignore signals.
_MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from aprgraph.cli import main
main()
"""
_TOKENS = "5,200,17,3,9"
#: Until a process has a handler for SIGTERM, which Python itself has not, it is the interpreter's own start.
_TERM_BIT = 1 << (signal.SIGTERM - 1)


@dataclass(frozen=True)
class Subject:
    """``aprgraph ARGUMENTS``. With ``cold``, the user's cache is empty."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    cold: bool = False


@dataclass(frozen=True)
class Ending:
    """How a process ended: exit code, streams, and seconds from when it was ready, or from the signal."""

    code: int
    out: str
    err: str
    seconds: float


def prepare(folder: Path) -> list[Subject]:
    """Write models and traces into ``folder``; the commands that are run there."""
    write_tiny_model(folder / "m.gguf", family="qwen3moe", layers=2)
    write_tiny_model(folder / "other.gguf", family="qwen3moe", layers=2, seed=1)
    trace = ("--taps", "all", "--layers", "0..2", "--tokens", _TOKENS)
    for side in ("m", "other"):
        made = run_cli("run", folder / f"{side}.gguf", *trace, "-o", folder / f"trace-{side}", "--target", "reference")
        assert made.code == 0, made
    made = run_cli("compile", folder / "m.gguf", "-o", folder / "m.aprg")
    assert made.code == 0, made
    run = ["run", "m.gguf", *trace, "-o", "out"]
    return [
        Subject("run", run),
        Subject("run -n", [*run, "--max-tokens", "40", "--steps", "0..40"]),
        Subject("run in parts", [*run, "--prefill-chunk", "2"]),
        Subject("run cold", run, cold=True),
        Subject("run an artifact", ["run", "m.aprg", *trace, "-o", "out"]),
        Subject("run, interpreted", [*run, "--target", "reference"]),
        Subject("generate", ["run", "m.gguf", "--tokens", _TOKENS, "--max-tokens", "40"]),
        Subject("compile", ["compile", "m.gguf", "-o", "out.aprg"]),
        Subject("compile cold", ["compile", "m.gguf", "-o", "out.aprg"], cold=True),
        Subject("bisect", ["bisect", "m.gguf", "--a", "llvm", "--b", "reference", "--tokens", _TOKENS]),
        Subject("diff", ["diff", "trace-m", "trace-other", "--model", "m.gguf", "--html", "out.html", "--repro", "repro"]),
        Subject("diff --json", ["diff", "trace-m", "trace-other", "--json"]),
        Subject("audit", ["audit", "trace-other", "--model", "m.gguf", "--repro", "repro"]),
        Subject("weights", ["weights", "m.gguf", "other.gguf", "--html", "out.html"]),
        Subject("check", ["check", "m.gguf"]),
        Subject("graph", ["graph", "m.gguf", "-o", "out.svg"]),
        Subject("stages", ["stages", "m.gguf"]),
    ]


@contextmanager
def on_devices(folder: Path) -> Iterator[list[Subject]]:
    """The commands on the emulated GPU, whose toolkit has a compiler of its own, and on a TVM RPC server."""
    from tests.support.cuda_emulator import toolkit
    from tests.support.rpc_server import rpc_server

    run = ["--taps", "all", "--layers", "0..2", "--tokens", _TOKENS, "-o", "out"]
    with rpc_server(folder / "server.log") as server:
        found = [Subject("run --rpc", ["run", "m.aprg", *run, "--max-tokens", "4", "--steps", "0..4", "--rpc", server.address])]
        gpu = {**toolkit().environment(), "TVM_NUM_THREADS": "1"}
        compile_ = ["compile", "m.gguf", "--target", "cuda", "--arch", "sm_80", "-o"]
        on_gpu = Subject("run on a GPU", ["run", "gpu.aprg", *run], gpu)
        run_to_end(folder, Subject("", [*compile_, "gpu.aprg"], gpu))
        run_to_end(folder, on_gpu)
        target = json.loads((folder / "out" / MANIFEST).read_text(encoding="utf-8"))["target"]
        assert target == "cuda sm_80", target
        yield [*found, on_gpu, Subject("compile for a GPU", [*compile_, "out.aprg"], gpu, cold=True)]


def run_to_end(folder: Path, subject: Subject) -> Ending:
    """How the command ends by itself. Raises AssertionError for an error of it."""
    with _temporary(folder) as temporary:
        started = _start(folder, subject, temporary)
        ending = _end(started, time.monotonic())
    assert ending.code in (0, 1), (subject.name, ending)
    return ending


def interrupt(folder: Path, subject: Subject, numbers: Sequence[int], delay: float, *, group: bool = False) -> Ending:
    """Send ``numbers``, one at once behind the other, ``delay`` seconds after the process is ready; to all its processes if ``group``."""
    clean(folder)
    with _temporary(folder) as temporary:
        process = _start(folder, subject, temporary)
        time.sleep(delay)
        for number in numbers:
            (os.killpg if group else os.kill)(process.pid, number)
        ending = _end(process, time.monotonic())
        left = [path.name for path in temporary.iterdir()]
    problem = problem_of(ending, numbers)
    hidden = [path.relative_to(folder).as_posix() for path in folder.rglob(".*") if "cold" not in path.parts]
    if problem is None and (left or hidden) and numbers:
        problem = f"left {left or hidden}"
    if problem is None and (folder / "out").exists():
        whole, begun = (folder / "out" / MANIFEST).exists(), (folder / "out" / MARKER).exists()
        if ending.code not in (0, 1) and not whole and not begun:
            problem = "left tensors that nothing says are not all"
    assert problem is None, f"{subject.name}, {list(map(signal.Signals, numbers))} after {delay:.3f} s: {problem}\n{ending}"
    return ending


def problem_of(ending: Ending, numbers: Sequence[int]) -> str | None:
    """What is wrong with how a process ended that was sent ``numbers``."""
    if "Traceback" in ending.err or "Error" in ending.err or "Exception" in ending.err:
        return "a traceback"
    lines = [line for line in ending.err.splitlines() if not line.startswith("note: ")]
    if ending.code in (0, 1):
        return None
    if ending.code not in [sign for number in numbers for sign in (-number, 128 + number)]:
        return f"exit code {ending.code}"
    return f"{len(lines)} lines" if len(lines) > 1 else None


def clean(folder: Path) -> None:
    """Remove what commands wrote."""
    for place in ("out", "out.aprg", "repro"):
        shutil.rmtree(folder / place, ignore_errors=True)
    for place in ("out.html", "out.svg"):
        (folder / place).unlink(missing_ok=True)


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        yield Path(name)


def _start(folder: Path, subject: Subject, temporary: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, **subject.environment, "TMPDIR": str(temporary)}
    if subject.cold:
        environment["APRGRAPH_CACHE"] = str(folder / "cold")
        shutil.rmtree(folder / "cold", ignore_errors=True)
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, *subject.arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True, errors="replace",
    )  # fmt: skip
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        with suppress(OSError):  # it has just ended
            caught = next((line for line in status.read_text().splitlines() if line.startswith("SigCgt")), "SigCgt: 0")
            if int(caught.split()[1], 16) & _TERM_BIT:
                break
        time.sleep(0.001)
    return process


def _end(process: subprocess.Popen[str], since: float) -> Ending:
    out, err = process.communicate(timeout=120)
    return Ending(process.returncode, out, err, time.monotonic() - since)


def main() -> None:
    """Print how many ended how."""
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    chance = random.Random(seed)
    outcomes: Counter[tuple[str, str, int]] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name, "work")
        folder.mkdir()
        os.environ["APRGRAPH_CACHE"] = str(Path(name, "cache"))
        subjects = [*prepare(folder), *stack.enter_context(on_devices(folder))]
        print(len(subjects), "commands", flush=True)
        seconds = {}
        for subject in subjects:
            if len(sys.argv) > 3:
                seconds[subject.name] = float(sys.argv[3])
                continue
            run_to_end(folder, subject)
            clean(folder)
            seconds[subject.name] = run_to_end(folder, subject).seconds
            print(f"{subject.name}: {seconds[subject.name]:.2f} s", flush=True)
        for index in range(count):
            subject = subjects[index % len(subjects)]
            number = chance.choice(ENDING)
            numbers = chance.choice(
                [[number], [number], [number], [number, chance.choice(ENDING)], [signal.SIGTSTP, signal.SIGCONT, number]]
            )
            delay = chance.uniform(0, 1.1 * seconds[subject.name])
            try:
                ending = interrupt(folder, subject, numbers, delay, group=chance.random() < 0.3)
            except (AssertionError, OSError) as problem:
                print(repr(problem), flush=True)
                outcomes["", "PROBLEM", 0] += 1
                continue
            slowest = max(slowest, ending.seconds if ending.code not in (0, 1) else 0)
            outcomes[subject.name, signal.Signals(number).name, ending.code] += 1
            print(f"{index + 1}: {subject.name}, {signal.Signals(number).name} after {delay:.2f} s: {ending.code}", flush=True)
        for subject in subjects:
            clean(folder)  # two commands write pages of different kinds, and neither over the other's
            run_to_end(folder, subject)
    totals: Counter[int] = Counter()
    for (name, number_name, code), times in sorted(outcomes.items()):
        print(f"{times:4} {name:20} {number_name:8} {code}")
        totals[code] += times
    print(dict(totals), f"the slowest ended {slowest:.2f} s after its signal")
    sys.exit(any(kind == "PROBLEM" for _, kind, _ in outcomes))


if __name__ == "__main__":
    main()
