"""Command lines of aprgraph in processes whose CUDA is the emulated one: several in each, since starting one takes a second."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

from aprgraph.runtime.trace import aprt
from tests.support.cli import Result, run_cli
from tests.support.cuda_emulator import toolkit

_ROOT = Path(__file__).resolve().parents[2]
# The installed package is found before the repository's folder of that name: see tests/conftest.py.
_SERVE = f"import sys; sys.path.append({str(_ROOT)!r}); from tests.support.cuda_runs import serve; serve()"


@dataclass(frozen=True)
class Command:
    """``aprgraph ARGUMENTS``. After ``room_for`` files of tensors the disk is full."""

    arguments: tuple[str, ...]
    room_for: int | None = None


def command(*arguments: object, room_for: int | None = None) -> Command:
    return Command(tuple(map(str, arguments)), room_for)


def run_emulated(commands: Sequence[Command], directory: Path, settings: Mapping[str, object] | None = None) -> list[Result]:
    """Run ``commands`` one after the other in one process, in ``directory``. ``settings`` are those of the emulated device.

    What the emulator finds wrong with a kernel goes to the process's own error output, and fails here.
    """
    environment = {**os.environ, **toolkit().environment(settings), "TVM_NUM_THREADS": "1"}
    given = json.dumps([asdict(each) for each in commands])
    done = subprocess.run(
        [sys.executable, "-c", _SERVE], input=given, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), f"exit code {done.returncode}\n{done.stderr}"
    return [Result(**result) for result in json.loads(done.stdout)]


def serve() -> None:
    """The other end: commands as JSON from standard input, results as JSON to standard output."""
    results = []
    for document in json.load(sys.stdin):
        with _limit(document["room_for"]):
            results.append(run_cli(*document["arguments"]))
    print(json.dumps([asdict(result) for result in results]))


@contextlib.contextmanager
def _limit(room_for: int | None) -> Iterator[None]:
    written = 0

    def write(descriptor: int, buffers: Sequence[memoryview]) -> int:
        nonlocal written
        written += 1
        if room_for is not None and written > room_for:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return writev(descriptor, buffers)

    writev = os.writev
    with mock.patch.object(aprt.os, "writev", write):
        yield
