"""Command lines of aprgraph in processes whose CUDA is the emulated one: several in each. They are forked from a server, since starting one takes seconds."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import multiprocessing.forkserver
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

from aprgraph.runtime.trace import aprt
from tests.support.cli import Result, run_cli
from tests.support.cuda_emulator import toolkit

#: What a server imports before the first process is forked from it: nearly all that such a process would take its time for.
_IMPORTED = [
    "tvm.relax",
    "aprgraph.cli",
    "aprgraph.api",
    "aprgraph.comparison",
    "aprgraph.codegen.cuda.host_code",
    "aprgraph.runtime.cuda.session",
    __name__,
]


_STARTING = threading.Lock()


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
    with tempfile.TemporaryDirectory() as folder:
        said, results = Path(folder, "said"), Path(folder, "results")
        process = _server().Process(target=_serve, args=(commands, directory, toolkit().environment(settings), said, results))
        process.start()
        process.join()
        assert (process.exitcode, said.read_text(errors="replace")) == (0, ""), f"exit code {process.exitcode}\n{said.read_text()}"
        return [Result(**result) for result in json.loads(results.read_text())]


def _server() -> ForkServerContext:
    """Forks processes whose CUDA is the emulated one."""
    with _STARTING:
        return _started()


@cache
def _started() -> ForkServerContext:
    """The dynamic linker has to be told of the emulated CUDA when the server itself starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with mock.patch.dict(os.environ, {**toolkit().environment(), "TVM_NUM_THREADS": "1"}):
        multiprocessing.forkserver.ensure_running()
    return context


def _serve(commands: Sequence[Command], directory: Path, environment: Mapping[str, str], said: Path, results: Path) -> None:
    """The other end: writes what the commands left to the file ``results``."""
    for descriptor in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.update(environment)  # the emulator looks when it is first called
    os.chdir(directory)
    done = []
    for each in commands:
        with _limit(each.room_for):
            done.append(asdict(run_cli(*each.arguments)))
    results.write_text(json.dumps(done))


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
