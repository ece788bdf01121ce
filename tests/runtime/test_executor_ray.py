"""Workers in a real Ray cluster of two nodes on loopback. That kills and a lost head change no store: `make sweep-acceptance`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.support.cli import run_python
from tests.support.ray_nodes import two_nodes

pytest.importorskip("ray", reason="Ray is optional: aprgraph[ray]; .ci/run installs it")

#: In a process of its own, since Ray's client warns of what it does itself.
_CALLS = """
import os, signal, sys
from aprgraph.graph.errors import ExecutorError
from aprgraph.runtime.executors import open_executor
notices = []
with open_executor(sys.argv[1], attempts=2, on_notice=notices.append) as executor:
    assert executor.workers == 2, executor.workers
    assert list(executor.map(pow, range(8), [2] * 8)) == [number * number for number in range(8)]
    try:
        executor.submit(os.kill, 0, "x").result()
    except TypeError as error:
        print("the call's own error")
    try:
        executor.submit(os._exit, 3).result()
    except ExecutorError as error:
        print(error)
    print(executor.submit(len, "abc").result(), len(notices))
"""


def test_calls_are_done_on_two_nodes_and_a_dead_worker_is_seen(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary, two_nodes(temporary) as nodes:
        done = run_python(_CALLS, nodes.address, cwd=tmp_path, env={"PYTHONWARNINGS": "ignore"})
    assert done.code == 0, done.err
    first, second, third = done.out.splitlines()
    assert (first, third) == ("the call's own error", "3 1")
    assert second.startswith("given up after 2 attempts: a Ray worker is gone or never came: ")
