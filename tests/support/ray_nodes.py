"""A Ray cluster of two nodes on loopback, whose head can be lost and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_USAGE = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}


class TwoNodes:
    """``address`` is that of Ray's client server on the head."""

    def __init__(self, temporary: str) -> None:
        self._temporary = temporary
        self._port, client = _free_port(), _free_port()
        self.address = f"ray://127.0.0.1:{client}"
        self._head = ["--head", f"--port={self._port}", f"--ray-client-server-port={client}", "--include-dashboard=false"]

    def start(self) -> None:
        """Start both nodes, each of one processor."""
        for which in (self._head, [f"--address=127.0.0.1:{self._port}"]):
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", *which, "--node-ip-address=127.0.0.1", "--num-cpus=1"]
            done = subprocess.run(
                [*command, "--object-store-memory=100000000", "--disable-usage-stats"],
                env={**os.environ, **_USAGE, "RAY_TMPDIR": self._temporary},
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr

    def stop(self) -> None:
        """Kill all that was started, which is known by its environment, or by the files that it has open."""
        while processes := [*self._processes()]:
            for number in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.05)

    def restart(self) -> None:
        """Lose both nodes, the head among them, and start two at the same address."""
        self.stop()
        self.start()

    def _processes(self) -> Iterator[int]:
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_there = int(place.name) != os.getpid() and (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if is_there and (self._was_started_with(place) or self._has_open(place)):
                    yield int(place.name)

    def _was_started_with(self, place: Path) -> bool:
        return f"RAY_TMPDIR={self._temporary}\0".encode() in (place / "environ").read_bytes()

    def _has_open(self, place: Path) -> bool:
        """Ray's agents write their titles over their environments, and outlive their node for minutes on a busy machine."""
        title = (place / "cmdline").read_bytes()
        return title.startswith(b"ray::") and any(
            str(link.readlink()).startswith(f"{self._temporary}/") for link in (place / "fd").iterdir()
        )


@contextlib.contextmanager
def two_nodes(temporary: str) -> Iterator[TwoNodes]:
    """Two nodes with their files in ``temporary``, a folder of their own with a short path, since sockets lie there."""
    nodes = TwoNodes(temporary)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.stop()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number
