"""A session on a TVM RPC server: kernels and tensors there, and its failures in one line each.

Nothing of ours has to be installed there: what is called are functions of TVM's, and of the kernel library that is sent first.
"""

from __future__ import annotations

import math
import queue
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.arguments import COMPILE, CPU, RPC
from aprgraph.graph.errors import RemoteError
from aprgraph.graph.interrupts import held, let_through
from aprgraph.runtime.remote import address as server_address
from aprgraph.runtime.remote.address import RemoteAddress, find_server, no_answer
from aprgraph.runtime.remote.signals import BrokenPipes
from aprgraph.runtime.tvm_runtime import first_line, load_tvm

_SAME_VERSION = f"expected one of TVM {version('apache-tvm')}, as this side is"
#: Bytes that travel at once: TVM holds them once more on either side.
_PIECE = 16 << 20
#: What LLVM calls the instruction sets that have another name in /proc/cpuinfo.
_LLVM_NAMES = {"abm": "lzcnt", "bmi1": "bmi", "lahf_lm": "sahf", "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2"}


@dataclass(frozen=True)
class GpuCode:
    """CUDA kernels: the fat binary, and how they are called (the JSON that TVM's runtime reads).

    ``gpu`` is the number of the GPU to use on the server. ``check`` raises ArtifactError where one of a compute capability
    (major, minor), with its name, cannot run them.
    """

    fat_binary: Path
    functions: str
    gpu: int
    check: Callable[[tuple[int, int], str], None]


class Connection:
    """A session, until ``close``. Raises RemoteError, as all methods do."""

    def __init__(self, address: RemoteAddress, *, runtime_alone: bool = False) -> None:
        self.address = address
        numeric = find_server(address)
        self._tvm = load_tvm(runtime_alone=runtime_alone)
        self._closed = self._lost = False
        self._pipes = BrokenPipes()
        try:
            self._session = _connect(address, numeric)
        except BaseException:
            self._pipes.restore(lost=True)
            raise
        self._device = self._session.cpu()
        self._staging: Any = None

    def close(self) -> None:
        """End the session, which frees all that it holds on the server."""
        if self._closed:
            return
        self._closed = True
        with suppress(Exception):
            # After this, tensors that are still held are freed without a word to the server.
            self._session.get_function("CloseRPCConnection")()
        self._pipes.restore(lost=self._lost)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """What fails in the block failed while ``what``, a verb in -ing.

        An interrupt waits until the message is through: TVM's server stops serving when a client leaves in the middle of one.
        """
        from tvm.error import RPCError  # noqa: PLC0415

        try:
            with held():
                yield
        except RPCError as error:
            if "bad_alloc" in str(error) or "out of memory" in str(error).lower():
                raise RemoteError(f"{self.address}: the server ran out of memory while {what}; trace fewer positions or layers") from None
            raise RemoteError(f"{self.address}: the server failed while {what}: {first_line(error)}; {_SAME_VERSION}") from None
        except RuntimeError as error:
            self._lost = True
            raise RemoteError(
                f"{self.address}: the connection was lost while {what} ({first_line(error)}); where the server has crashed, its log "
                "says how; start it again"
            ) from None

    # -- code ------------------------------------------------------------------------------------------------------------

    def check_cpu(self, name: str, flags: Collection[str]) -> None:
        """Raise RemoteError if the server says that its processor lacks a flag of ``name`` (as in /proc/cpuinfo)."""
        with self.doing("telling its processor"):
            try:
                features = self._session.get_function("tvm.codegen.llvm.GetHostCPUFeatures")()
                text = str(self._session.get_function("ffi.ReprPrint")(features))
            except AttributeError:  # a server without the compiler
                return
            del features  # which is a message
        missing = [flag for flag in flags if re.search(rf'"{re.escape(_LLVM_NAMES.get(flag, flag))}": [^,}}]*False', text)]
        if missing:
            raise RemoteError(
                f"{self.address}: the kernels are built for {name}, but the server's processor lacks {', '.join(missing)}; "
                "compile for it with `",
                COMPILE.with_options(CPU, in_python="LoadedModel.compile(cpu=…)"),
                "`, and run that artifact",
            )

    def use_gpu(self, code: GpuCode) -> tuple[int, int]:
        """Let all tensors lie on the GPU that ``code`` is for. Its compute capability. Raises ArtifactError if it cannot run it."""
        with self.doing("telling its GPU"):
            device = self._session.cuda(code.gpu)
            if not device.exist:
                raise RemoteError(
                    f"{self.address}: the server has no GPU {code.gpu}, or no driver and CUDA runtime library (libcudart.so.13) that TVM "
                    "finds when it starts"
                )
            major, minor = (int(part) for part in str(device.compute_version).split("."))
            name = str(device.device_name)
        code.check((major, minor), f"{self.address} GPU {code.gpu} ({name})")
        self._device = device
        return major, minor

    def load(self, library: Path, gpu_code: GpuCode | None = None) -> Callable[[str], Any]:
        """Send a kernel library; gives the function that finds kernels in it by name."""
        with self.doing("loading the kernels"):
            self._session.upload(bytearray(library.read_bytes()), library.name)
            module = self._session.load_module(library.name)
            if gpu_code is not None:
                functions = self._session.get_function("runtime.LoadMetaDataFromJSON")(gpu_code.functions)
                create = self._session.get_function("ffi.Module.create.cuda")
                no_sources = self._session.get_function("ffi.Map")()
                module.import_module(create(gpu_code.fat_binary.read_bytes(), "fatbin", functions, no_sources))
                del functions, create, no_sources  # each of which is a message
            find: Callable[[str], Any] = module.get_function
            return find

    def set_threads(self, threads: int) -> None:
        """Use no more than ``threads``; the server's own limit stays."""
        with self.doing("setting the number of threads"):
            self._session.get_function("runtime.config_threadpool")(1, threads)

    # -- tensors ---------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Any:
        """Room for ``nbytes``."""
        return self._tvm.runtime.empty((nbytes,), "uint8", self._device)

    @staticmethod
    def view(space: Any, shape: Sequence[int], dtype: str, offset: int = 0) -> Any:
        """A tensor in ``space``, from its byte ``offset`` on."""
        return space._create_view(tuple(shape), dtype, offset)  # noqa: SLF001 -- TVM has no public reshape without a copy

    def put(self, space: Any, values: npt.NDArray[Any], offset: int = 0) -> None:
        """Copy ``values`` into ``space``, from its byte ``offset`` on."""
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if not offset and flat.size <= _PIECE:
            self.view(space, flat.shape, "uint8").copyfrom(flat)
            return
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            staged = self._stage(piece.size)
            staged.copyfrom(piece)
            staged.copyto(self.view(space, piece.shape, "uint8", offset + start))

    def put_rows(self, space: Any, values: npt.NDArray[Any], rows: Sequence[int]) -> None:
        """Copy ``rows`` (ascending) of ``values`` to where they lie in ``space``, which is as large as ``values``."""
        per_row = values.nbytes // len(values)
        if per_row > _PIECE:
            for row in rows:
                self.put(space, values[row], row * per_row)
            return
        at_once = _PIECE // per_row
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            staged = self._stage(len(part) * per_row)
            staged.copyfrom(np.ascontiguousarray(values[part]).reshape(-1).view(np.uint8))
            for first, last in _runs(part):
                extent = ((last - first) * per_row,)
                source = self.view(staged, extent, "uint8", first * per_row)
                source.copyto(self.view(space, extent, "uint8", part[first] * per_row))

    def get(self, space: Any, shape: Sequence[int], dtype: str) -> npt.NDArray[Any]:
        """The tensor at the start of ``space``."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes <= _PIECE:
            values: npt.NDArray[Any] = self.view(space, shape, dtype).numpy()
            return values
        flat = np.empty(nbytes, np.uint8)
        for start in range(0, nbytes, _PIECE):
            piece = flat[start : start + _PIECE]
            staged = self._stage(piece.size)
            self.view(space, piece.shape, "uint8", start).copyto(staged)
            piece[:] = staged.numpy()
        return flat.view(dtype).reshape(shape)

    def _stage(self, nbytes: int) -> Any:
        """A tensor of its own to send and receive with: TVM's client takes no notice of where in a tensor a view begins."""
        let_through()
        if self._staging is None:
            self._staging = self.allocate(_PIECE)
        return self.view(self._staging, (nbytes,), "uint8")


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where in ``rows`` each run of consecutive numbers begins and ends."""
    first = 0
    for index in range(1, len(rows) + 1):
        if index == len(rows) or rows[index] != rows[index - 1] + 1:
            yield first, index
            first = index


def _connect(address: RemoteAddress, numeric: str) -> Any:
    """A session of TVM's. In a thread, as its handshake knows no time limit. Raises RemoteError."""
    from tvm import rpc  # noqa: PLC0415

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def call() -> None:
        try:
            answers.put(rpc.connect(numeric, address.port, address.key))
        except Exception as error:  # noqa: BLE001 -- handed over
            answers.put(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        answer = answers.get(timeout=server_address.CONNECT_TIMEOUT)
    except queue.Empty:
        raise RemoteError(no_answer(address)) from None
    if not isinstance(answer, Exception):
        return answer
    text = str(answer)
    if "matches key" in text:
        has = f"another key than {address.key!r}" if address.key else "a key"
        raise RemoteError(
            f"{address}: the server has {has}; give ",
            RPC.given(f"{address}/KEY", f"'{address}/KEY'"),
            ", with the KEY it was started with (its own option --key)",
        )
    if "is not TVM RPC server" in text:
        raise RemoteError(f"{address}: what answers there is no TVM RPC server; give ", RPC, " the HOST:PORT of one")
    raise RemoteError(f"{address}: no session with the server ({first_line(answer)}); {_SAME_VERSION}")
