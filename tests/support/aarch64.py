"""An ARM board in a process: QEMU runs kernels for aarch64, behind as much of a TVM RPC server as a run needs (kernel_server.c)."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.codegen.cpu.levels import CPUS
from aprgraph.codegen.cpu.library import build_library
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.calling_convention import half_table
from aprgraph.graph.machine_code import MachineCode
from aprgraph.runtime.remote.address import parse_remote
from aprgraph.runtime.remote.connection import Connection, Space
from aprgraph.runtime.remote.protocol import Tensor
from tests.support.kernels import POISON, RUNNABLE, Weight

#: The levels of aarch64, and a processor that has each and nothing more, or the more that there is.
PROCESSORS = {"aarch64": "cortex-a53", "aarch64-dotprod": "max"}
#: The level that has the same lanes, and so the same sums; kernels of both give the same bits.
SAME_BITS = CPUS["x86-64-v3"]

_SOURCE = Path(__file__).with_name("kernel_server.c")
_COMPILER, _LIBRARIES = "aarch64-linux-gnu-gcc", "/usr/aarch64-linux-gnu"
_EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")


def _emulator() -> str | None:
    return next(filter(None, map(shutil.which, _EMULATORS)), None)


def missing() -> list[str]:
    """What the tests of aarch64 need and this machine lacks, as Debian's packages."""
    needed = {
        "qemu-user": _emulator(),
        "gcc-aarch64-linux-gnu": shutil.which(_COMPILER),
        "libc6-dev-arm64-cross": Path(_LIBRARIES, "lib").is_dir(),
    }
    return [package for package, found in needed.items() if not found]


needs_board = pytest.mark.skipif(bool(missing()), reason=f"kernels for aarch64 are run with {' '.join(missing())}, not here (.ci/run)")
needs_same_bits = pytest.mark.skipif(SAME_BITS not in RUNNABLE, reason=f"the bits are those of {SAME_BITS.name}, which this machine lacks")


@cache
def _server_program() -> tempfile.TemporaryDirectory[str]:
    """The folder in which the server is, compiled once in a process."""
    folder = tempfile.TemporaryDirectory(prefix="aprgraph-tests-")
    command = [_COMPILER, "-O1", "-Wall", "-Wextra", "-Werror", "-rdynamic", "-o", f"{folder.name}/server", str(_SOURCE), "-ldl", "-lm"]
    subprocess.run(command, check=True)
    return folder


@contextlib.contextmanager
def board(processor: str) -> Iterator[str]:
    """A server on a ``processor`` of QEMU's, until the block ends: what --rpc takes."""
    emulator = _emulator()
    assert emulator is not None
    program = Path(_server_program().name, "server")
    with tempfile.TemporaryDirectory(prefix="aprgraph-tests-") as folder:
        command = [emulator, "-cpu", processor, "-L", _LIBRARIES, str(program), folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield f"127.0.0.1:{int(process.stdout.readline())}"
            finally:
                process.kill()


class BoardKernels:
    """Kernels of one level on a board, until ``close``."""

    def __init__(self, address: str, level: str, requests: Sequence[KernelRequest]) -> None:
        with tempfile.TemporaryDirectory(prefix="aprgraph-tests-") as folder:
            path = Path(folder, "kernels.so")
            build_library({each.symbol: each for each in requests}, CPUS[level], path)
            library = MachineCode(path.read_bytes(), path)
        self._connection = Connection(parse_remote(address))
        self.close = self._connection.close
        self._find = self._connection.load(library)

    def run(
        self, what: KernelRequest, operands: Sequence[npt.NDArray[Any] | Weight], shape: Sequence[int], threads: int = 2
    ) -> npt.NDArray[np.float32]:
        """As tests.support.kernels.run, on the board, in so many parts."""
        spaces: list[Space] = []

        def there(values: npt.NDArray[Any]) -> Tensor:
            spaces.append(self._connection.allocate(values.nbytes))
            self._connection.put(spaces[-1], values)
            return self._connection.view(spaces[-1], values.shape, values.dtype.name)

        given = [there(half_table())] if what.needs_half_table else []
        for operand in operands:
            if not isinstance(operand, Weight):
                given.append(there(operand))
            elif operand.places is None:
                given.append(there(operand.stored))
            else:
                given += [there(operand.stored.reshape(-1)), there(operand.places)]
        out = there(np.full(shape, POISON))
        self._connection.set_threads(threads)
        self._find(what.symbol)(*given, *what.numbers.values(), out)
        found = self._connection.get(spaces[-1], shape, "float32")
        assert not (found == POISON).any(), f"{what.text}: elements were not written"
        return found
