"""Runs cases in processes with bounds, and says what came of those that went wrong."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from aprgraph.graph.errors import AprgraphError
from tests.fuzz.target import Target
from tests.support.cli import run_cli

#: Seconds of processor time and bytes of memory that a case may take, seconds after which a process is ended that does not end itself,
#: and characters of an error.
CPU_SECONDS, MEMORY, SECONDS, LONGEST = 10.0, 1 << 30, 90.0, 3000


_ROOT = str(Path(__file__).resolve().parents[2])


class TooLong(BaseException):
    """The processor time is over."""


@dataclass(frozen=True)
class Finding:
    """What went wrong in a case: ``kind`` is the same for cases of one cause."""

    target: str
    case: int
    kind: str
    details: str


def check(target: Target, number: int, *, always: bool = False) -> str | None:
    """The error of reading what ``target`` has written, None for none. Anything that is a finding is raised.

    ``always``: run every command too.
    """
    said = None
    try:
        target.read()
    except AprgraphError as error:
        said = str(error)
        require_one_line(said)
    commands = list(target.commands)
    if commands and (always or number % target.each == 0):
        for command in commands if always else [commands[number // target.each % len(commands)]]:
            result = run_cli(*command.split())
            if result.code not in (0, 1, 2, 3):
                raise AssertionError(f"aprgraph {command}: exit code {result.code}\n{result.err}")
            if result.code == 2:
                require_one_line(next((line for line in result.err.splitlines()[::-1] if line), ""), "error: ")
                if "Traceback" in result.err:
                    raise AssertionError(f"aprgraph {command}:\n{result.err}")
    return said


def require_one_line(text: str, *prefixes: str) -> None:
    """Raise AssertionError for a message that is none."""
    first = text.partition("\n")[0]
    if not text or len(first) > LONGEST or (prefixes and not text.lstrip("│ ").startswith(prefixes)):
        raise AssertionError(f"a message of {len(text)} characters: {text[:300]!r}")


def attempt(target: Target, seed: int, case: int) -> Finding | None:
    """Run one case here. What it takes is bounded by ``limited``."""
    random = Random(f"{seed}/{target.name}/{case}")
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        target.mutate(random)
        check(target, case)
    except (Exception, TooLong) as error:  # noqa: BLE001 -- that is what is looked for
        signal.setitimer(signal.ITIMER_PROF, 0)
        return Finding(target.name, case, _kind(error), "".join(traceback.format_exception(error))[-6000:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _kind(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_ROOT) and "/.venv/" not in frame.filename]
    last = next((frame for frame in reversed(ours) if not frame.filename.startswith(f"{_ROOT}/tests")), frames[-1])
    inside = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f" {inside[-1][:160]}" if isinstance(error, AssertionError) and inside else ""
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}{said}"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Bounds for this process, for good: memory, and a signal that ends a case."""

    def stop(_number: int, _frame: object) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, stop)
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    yield


def run(kind: type[Target], seed: int, first: int, count: int, until: float) -> tuple[int, list[Finding]]:
    """Run ``count`` cases from ``first`` on, or as many as there is time for; how many, and what was found."""
    found: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="aprgraph-fuzz-") as place, tempfile.TemporaryFile("w+") as log:
        target = kind(Path(place))
        done = first
        while done < first + count and time.monotonic() < until:
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                _child(target, seed, done, first + count, until, writing, log.fileno())
            os.close(writing)
            reached, findings = _listen(reading, child)
            done = max(done + 1, reached + 1)
            found += findings
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
                log.seek(0)
                found.append(Finding(target.name, reached, f"the process ended with {status}", log.read()[-6000:]))
                log.truncate(0)
    return done - first, found


def _child(target: Target, seed: int, start: int, stop: int, until: float, writing: int, log: int) -> None:
    code = 1
    try:
        faulthandler.enable(log)
        os.chdir(target.folder)
        os.dup2(log, 2)
        with limited(), os.fdopen(writing, "w") as out:
            for case in range(start, stop):
                if time.monotonic() > until:
                    break
                print(json.dumps(case), file=out, flush=True)
                finding = attempt(target, seed, case)
                if finding is not None:
                    print(json.dumps(vars(finding)), file=out, flush=True)
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _listen(reading: int, child: int) -> tuple[int, list[Finding]]:
    """The last case that a child began, and what it found; one that is silent for too long is ended."""
    reached, findings, rest = -1, [], b""
    ready = select.poll()  # select takes no descriptor from 1024 on, which a process of many tests has
    ready.register(reading, select.POLLIN)
    try:
        while True:
            if not ready.poll(1000 * SECONDS):
                os.kill(child, signal.SIGABRT)
            data = os.read(reading, 1 << 16)
            if not data:
                return reached, findings
            *lines, rest = (rest + data).split(b"\n")
            for said in map(json.loads, lines):
                if isinstance(said, int):
                    reached = said
                else:
                    findings.append(Finding(**said))
    finally:
        os.close(reading)
