"""A session on a TVM RPC server: kernels and tensors there, and its failures in one line each.

Nothing of ours has to be installed there: what is called are functions of TVM's, and of the kernel library that is sent first.
Nothing of TVM's is needed here: its client would obey the server (protocol.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.arguments import COMPILE, CPU, RPC
from aprgraph.graph.errors import RemoteError, shown
from aprgraph.graph.interrupts import held, let_through
from aprgraph.graph.machine_code import MachineCode
from aprgraph.runtime.remote import address as server_address
from aprgraph.runtime.remote.address import RemoteAddress, find_server, no_answer
from aprgraph.runtime.remote.channel import Channel, KeyMismatchError, NoServerError, ServerError
from aprgraph.runtime.remote.protocol import Code, Device, Handle, ProtocolError, Tensor, Value, ValueType
from aprgraph.runtime.tvm_runtime import first_line

_SAME_VERSION = f"expected one of TVM {version('apache-tvm')}, as this side is"
#: Bytes that travel at once: TVM holds them once more.
_PIECE = 16 << 20
#: Bytes at whose multiples TVM lets tensors begin.
_ALIGNMENT = 64
#: DLPack's numbers of devices, and TVM's of what it tells of one.
_CPU, _CUDA = 1, 2
_EXISTS, _COMPUTE_VERSION, _DEVICE_NAME = 0, 4, 5
#: What TVM's compiler tells: the machine in LLVM's way, such as x86_64-linux-gnu, and what its processor has.
_TRIPLE, _FEATURES = "tvm.codegen.llvm.GetProcessTriple", "tvm.codegen.llvm.GetHostCPUFeatures"
#: What LLVM calls the instruction sets that have another name in /proc/cpuinfo.
_LLVM_NAMES = {"abm": "lzcnt", "bmi1": "bmi", "lahf_lm": "sahf", "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2"}


@dataclass(frozen=True)
class GpuCode:
    """CUDA kernels: the fat binary, and how they are called (the JSON that TVM's runtime reads).

    ``gpu`` is the number of the GPU to use on the server. ``check`` raises ArtifactError where one of a compute capability
    (major, minor), with its name, cannot run them.
    """

    fat_binary: MachineCode
    functions: str
    gpu: int
    check: Callable[[tuple[int, int], str], None]


@dataclass(eq=False)
class Space:
    """Memory on the server. It is given back, before the next is taken, once nobody here has this object any more."""

    data: int
    device: Device
    nbytes: int
    left: list[tuple[int, Device]] = field(repr=False)

    def __del__(self) -> None:
        self.left.append((self.data, self.device))


class Connection:
    """A session, until ``close``. Raises RemoteError, as all methods do."""

    def __init__(self, address: RemoteAddress) -> None:
        self.address = address
        numeric = find_server(address)
        self._closed = False
        self._channel = _connect(address, numeric)
        self._device = Device(_CPU)
        self._left: list[tuple[int, Device]] = []
        self._functions: dict[str, Handle | None] = {}

    def close(self) -> None:
        """End the session, which frees all that it holds on the server."""
        if self._closed:
            return
        self._closed = True
        self._channel.close()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """What fails in the block failed while ``what``, a verb in -ing.

        An interrupt waits until the message is through: TVM's server stops serving when a client leaves in the middle of one.
        """
        try:
            with held():
                yield
        except ServerError as error:
            if "bad_alloc" in str(error) or "out of memory" in str(error).lower():
                raise RemoteError(f"{self.address}: the server ran out of memory while {what}; trace fewer positions or layers") from None
            raise RemoteError(f"{self.address}: the server failed while {what}: {shown(first_line(error))}; {_SAME_VERSION}") from None
        except TimeoutError:
            raise RemoteError(f"{self.address}: the server kept silent for too long while {what}; see there, and start it again") from None
        except OSError as error:
            raise RemoteError(
                f"{self.address}: the connection was lost while {what} ({error.strerror or error}); where the server has crashed, its log "
                "says how; start it again"
            ) from None
        except ProtocolError as error:
            raise RemoteError(
                f"{self.address}: the server sent what is no answer while {what}: {error}; nothing was done by it; {_SAME_VERSION}"
            ) from None

    # -- code ------------------------------------------------------------------------------------------------------------

    def check_cpu(self, name: str, machine: str, flags: Collection[str]) -> None:
        """Raise RemoteError if the server says that it is another machine, or that its processor lacks a flag of ``name``.

        ``machine`` is named as uname(2) does, and flags as in /proc/cpuinfo.
        """
        with self.doing("telling its processor"):
            if self._function(_FEATURES) is None:  # a server without the compiler
                return
            triple = None if self._function(_TRIPLE) is None else self._call(_TRIPLE)
            there = triple.partition("-")[0] if isinstance(triple, str) else machine
            text = str(self._call("ffi.ReprPrint", self._object(_FEATURES)))
        missing = [flag for flag in flags if re.search(rf'"{re.escape(_LLVM_NAMES.get(flag, flag))}": [^,}}]*False', text)]
        if there != machine or missing:
            what = f"the server's processor lacks {', '.join(missing)}" if there == machine else f"the server is {shown(there)[1:-1]}"
            raise RemoteError(
                f"{self.address}: the kernels are built for {name}, but {what}; compile for it with `",
                COMPILE.with_options(CPU, in_python="LoadedModel.compile(cpu=…)"),
                "`, and run that artifact",
            )

    def use_gpu(self, code: GpuCode) -> tuple[int, int]:
        """Let all tensors lie on the GPU that ``code`` is for. Its compute capability. Raises ArtifactError if it cannot run it."""
        with self.doing("telling its GPU"):
            device = Device(_CUDA, code.gpu)
            if not self._channel.ask(Code.GET_DEVICE_ATTRIBUTE, device, _EXISTS):
                raise RemoteError(
                    f"{self.address}: the server has no GPU {code.gpu}, or no driver and CUDA runtime library (libcudart.so.13) that TVM "
                    "finds when it starts"
                )
            told = str(self._channel.ask(Code.GET_DEVICE_ATTRIBUTE, device, _COMPUTE_VERSION))
            found = re.fullmatch(r"(\d{1,3})\.(\d)", told)
            if found is None:
                raise ProtocolError(f"the compute capability {shown(told)}")
            name = str(self._channel.ask(Code.GET_DEVICE_ATTRIBUTE, device, _DEVICE_NAME))
        capability = int(found[1]), int(found[2])
        code.check(capability, f"{self.address} GPU {code.gpu} ({shown(name)[1:-1]})")
        self._device = device
        return capability

    def load(self, library: MachineCode, gpu_code: GpuCode | None = None) -> Callable[[str], Callable[..., None]]:
        """Send a kernel library; gives the function that finds kernels in it by name."""
        with self.doing("loading the kernels"):
            self._call("tvm.rpc.server.upload", library.place.name, library.data)
            module = self._object("tvm.rpc.server.load_module", library.place.name, kind=ValueType.MODULE)
            if gpu_code is not None:
                functions = self._object("runtime.LoadMetaDataFromJSON", gpu_code.functions)
                no_sources = self._object("ffi.Map")
                create = "ffi.Module.create.cuda"
                kernels = self._object(create, gpu_code.fat_binary.data, "fatbin", functions, no_sources, kind=ValueType.MODULE)
                self._call("tvm.rpc.server.ImportModule", module, kernels)

        def find(name: str) -> Callable[..., None]:
            kernel = self._object("tvm.rpc.server.ModuleGetFunction", module, name, True, kind=ValueType.FUNCTION)

            def call(*values: Value) -> None:
                self._channel.call(kernel.number, *values)

            return call

        return find

    def set_threads(self, threads: int) -> None:
        """Use no more than ``threads``; the server's own limit stays."""
        with self.doing("setting the number of threads"):
            self._call("runtime.config_threadpool", 1, threads)

    def _function(self, name: str) -> Handle | None:
        """A function of the server's, by its name; None if it has none of it."""
        if name not in self._functions:
            found = self._channel.ask(Code.GET_GLOBAL_FUNCTION, name)
            self._functions[name] = found if isinstance(found, Handle) and found.number else None
        return self._functions[name]

    def _call(self, name: str, *values: Value) -> Value:
        function = self._function(name)
        if function is None:
            raise ServerError(f"it has no function {name}")
        return self._channel.call(function.number, *values)[1]

    def _object(self, name: str, *values: Value, kind: ValueType = ValueType.OBJECT) -> Handle:
        """What a function of the server's returns, to be handed back to it as what it is."""
        found = self._call(name, *values)
        if not isinstance(found, Handle) or not found.number:
            raise ServerError(f"{name} found nothing")
        return Handle(found.number, kind)

    # -- tensors ---------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Space:
        """Room for ``nbytes``."""
        while self._left:
            data, device = self._left.pop()
            self._channel.ask(Code.FREE, device, Handle(data))
        found = self._channel.ask(Code.ALLOCATE, self._device, nbytes, _ALIGNMENT, np.dtype(np.uint8))
        if not isinstance(found, Handle):
            raise ProtocolError("no memory, and no error")
        return Space(found.number, self._device, nbytes, self._left)

    @staticmethod
    def view(space: Space, shape: Sequence[int], dtype: str, offset: int = 0) -> Tensor:
        """A tensor in ``space``, from its byte ``offset`` on."""
        tensor = Tensor(space.data, space.device, tuple(map(int, shape)), dtype, offset)
        assert offset + tensor.nbytes <= space.nbytes
        return tensor

    def put(self, space: Space, values: npt.NDArray[Any], offset: int = 0) -> None:
        """Copy ``values`` into ``space``, from its byte ``offset`` on."""
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            let_through()
            self._channel.copy_to(self.view(space, piece.shape, "uint8", offset + start), piece)

    def put_rows(self, space: Space, values: npt.NDArray[Any], rows: Sequence[int]) -> None:
        """Copy ``rows`` (ascending) of ``values`` to where they lie in ``space``, which is as large as ``values``."""
        per_row = values.nbytes // len(values)
        for first, last in _runs(rows):
            self.put(space, values[rows[first] : rows[first] + last - first], rows[first] * per_row)

    def get(self, space: Space, shape: Sequence[int], dtype: str) -> npt.NDArray[Any]:
        """The tensor at the start of ``space``."""
        flat = np.empty(math.prod(shape) * np.dtype(dtype).itemsize, np.uint8)
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            let_through()
            self._channel.copy_from(self.view(space, piece.shape, "uint8", start), piece)
        return flat.view(dtype).reshape(shape)


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where in ``rows`` each run of consecutive numbers begins and ends."""
    first = 0
    for index in range(1, len(rows) + 1):
        if index == len(rows) or rows[index] != rows[index - 1] + 1:
            yield first, index
            first = index


def _connect(address: RemoteAddress, numeric: str) -> Channel:
    """A session. Raises RemoteError."""
    try:
        return Channel(numeric, address.port, address.key, server_address.CONNECT_TIMEOUT)
    except KeyMismatchError:
        has = f"another key than {address.key!r}" if address.key else "a key"
        raise RemoteError(
            f"{address}: the server has {has}; give ",
            *((RPC.given(f"{address}/KEY", f"'{address}/KEY'"),) if address.argument is RPC else (address.argument, f" {address}/KEY")),
            ", with the KEY it was started with (its own option --key)",
        ) from None
    except NoServerError:
        raise RemoteError(f"{address}: what answers there is no TVM RPC server; give ", address.argument, " the HOST:PORT of one") from None
    except TimeoutError:
        raise RemoteError(no_answer(address)) from None
    except (OSError, ProtocolError, ServerError) as error:
        raise RemoteError(f"{address}: no session with the server ({shown(first_line(error))}); {_SAME_VERSION}") from None
