"""Broken pipes while a session on an RPC server is open."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.cli import run_python


@pytest.mark.parametrize(("lost", "code"), [(True, 0), (False, -signal.SIGPIPE)])
def test_a_broken_pipe(lost: bool, code: int, tmp_path: Path) -> None:
    """Of a connection that was lost it is an error; any other, as of `aprgraph run | head`, ends the process as ever."""
    result = run_python(
        """
import signal, socket, sys
from aprgraph.runtime.remote.signals import BrokenPipes
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
session = BrokenPipes()
a, b = socket.socketpair()
b.close()
try:
    a.send(b"x")
except BrokenPipeError:
    print("an error")
sys.stdout.flush()
session.restore(lost=sys.argv[1] == "True")
""",
        lost,
        cwd=tmp_path,
    )
    assert result.out == "an error\n"
    assert result.code == code
