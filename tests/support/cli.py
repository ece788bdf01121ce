"""Runs the command line: in this process, where tests can replace what the system says, or in a process of its own."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import typer.main

#: The signals that the command line handles, which tests in its process put back.
HANDLED = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAIN = "from aprgraph.cli import main; main()"


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and its two streams."""

    code: int
    out: str
    err: str


#: What typer makes of an app each time that it is called, with the signatures of all commands: here once.
_parser_of = cache(typer.main.get_command)


class _Terminal(io.StringIO):
    """What a command takes for a terminal."""

    def isatty(self) -> bool:
        return True


def run_cli(*arguments: object, terminal: bool = False) -> Result:
    """Run ``aprgraph ARGUMENTS`` in this process, in the current folder; ``terminal``: standard output is taken for one."""
    from aprgraph.cli import main

    out, err, code = _Terminal() if terminal else io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    try:
        with (
            mock.patch.object(sys, "argv", ["aprgraph", *map(str, arguments)]),
            mock.patch.object(typer.main, "get_command", _parser_of),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Result(code, out.getvalue(), err.getvalue())


def run_process(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None, preexec: Callable[[], None] | None = None) -> Result:
    """Run ``aprgraph ARGUMENTS`` in a process of its own, in the folder ``cwd``."""
    return run_python(_MAIN, *arguments, cwd=cwd, env=env, preexec=preexec)


def run_python(
    code: str, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, preexec: Callable[[], None] | None = None
) -> Result:
    """Run Python ``code`` with ``sys.argv[1:]`` = ``arguments``. ``env`` is added to this process's environment."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd, env={**os.environ, **(env or {})}, preexec_fn=preexec, stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def error_of(result: Result) -> str:
    """The message of a command that must have failed as all do: one line on stderr, exit code 2, no traceback."""
    assert result.code == 2, f"exit code {result.code}\n{result.out}{result.err}"
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: "), result.err
    return lines[0].removeprefix("error: ")


def fails(*arguments: object) -> str:
    """The message with which ``aprgraph ARGUMENTS`` fails, in this process."""
    return error_of(run_cli(*arguments))


def files_under(directory: Path) -> dict[str, bytes]:
    """Every file below a directory: its bytes, by its path there."""
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}
