"""A TVM RPC server in processes of its own, unmodified, on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aprgraph.graph.errors import RemoteError
from aprgraph.runtime.remote.address import RemoteAddress, find_server

_PATIENCE = 60.0


@dataclass
class RpcServer:
    """``address`` is what --rpc takes."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End all its processes at once, as a machine that goes down does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def crash_session(self, number: signal.Signals = signal.SIGILL) -> None:
        """End the process that serves the session of now, as an instruction that the processor lacks does."""
        parents = [self.process.pid]
        while children := [child for parent in parents for child in _children(parent)]:
            parents = children
        os.kill(parents[-1], number)


def _children(pid: int) -> list[int]:
    return [int(child) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for child in tasks.read_text().split()]


@contextlib.contextmanager
def rpc_server(
    log: Path, *, host: str = "127.0.0.1", key: str = "", runtime_alone: bool = False, variables: Mapping[str, str] | None = None
) -> Iterator[RpcServer]:
    """A server that takes connections, until the block ends; ``runtime_alone`` leaves out TVM's compiler.

    ``variables`` of the environment are set for it.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    command = ["-m", "tvm.exec.rpc_server", "--host", host, "--port", str(port), "--port-end", str(port + 1), "--key", key]
    environment = {**os.environ, **({"TVM_USE_RUNTIME_LIB": "1"} if runtime_alone else {}), **(variables or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, cwd=log.parent, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    address = RemoteAddress(host, port)
    server = RpcServer(f"{address}/{key}" if key else str(address), process, log)
    try:
        _wait(server, address)
        yield server
    finally:
        server.kill()


def _wait(server: RpcServer, address: RemoteAddress) -> None:
    end = time.monotonic() + _PATIENCE
    while not _answers(address):
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.05)


def _answers(address: RemoteAddress) -> bool:
    with contextlib.suppress(RemoteError):
        find_server(address)
        return True
    return False
