"""The CUDA driver and runtime library of this machine, found and loaded, and the few of their functions that TVM does not offer."""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aprgraph.graph.arguments import TARGET
from aprgraph.graph.errors import DeviceError

_DRIVER = "libcuda.so.1"
_RUNTIME = "libcudart.so.13"
_INSTALL = "install it with `pip install 'aprgraph[cuda]'`, or the CUDA toolkit 13"
_ELSEWHERE = ("a CUDA artifact can be compiled here and run on a machine that has one; ", TARGET.given("llvm", "'llvm'"), " runs here")

# Of cuda.h and driver_types.h.
_MAJOR, _MINOR = 75, 76
_NAME_LENGTH = 256
_DEVICE_TO_HOST, _HOST_TO_DEVICE = 2, 1
_NON_BLOCKING, _DISABLE_TIMING = 1, 2


@dataclass(frozen=True)
class Gpu:
    """A GPU: its ``index``, its name, and its compute capability."""

    index: int
    name: str
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


class Driver:
    """The two libraries. Streams and events are handles; None is the default stream, on which TVM launches kernels.

    Raises DeviceError that says what is missing: the driver, the runtime library, or a GPU.
    """

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL(_DRIVER, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            raise DeviceError(f"no NVIDIA driver here: {_DRIVER} cannot be loaded; ", *_ELSEWHERE) from None
        self._runtime = _load_runtime()
        self._check_driver("cuInit", ctypes.c_uint(0))
        self._runtime.cudaGetErrorString.restype = ctypes.c_char_p

    # -- devices -----------------------------------------------------------------------------------------------------------

    def gpus(self) -> list[Gpu]:
        """The GPUs of this machine."""
        count = ctypes.c_int()
        self._check_driver("cuDeviceGetCount", ctypes.byref(count))
        return [self._gpu(index) for index in range(count.value)]

    def _gpu(self, index: int) -> Gpu:
        handle, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_LENGTH)
        self._check_driver("cuDeviceGet", ctypes.byref(handle), ctypes.c_int(index))
        self._check_driver("cuDeviceGetName", name, ctypes.c_int(_NAME_LENGTH), handle)
        capability = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self._check_driver("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), handle)
            capability.append(value.value)
        return Gpu(index, name.value.decode(errors="replace"), (capability[0], capability[1]))

    def use(self, gpu: Gpu) -> None:
        """Make ``gpu`` the one that this thread works on."""
        self._check("cudaSetDevice", ctypes.c_int(gpu.index))

    def memory(self) -> tuple[int, int]:
        """Bytes of memory of the GPU in use: free, and in all."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._check("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    # -- memory of the host that a GPU copies to and from by itself ------------------------------------------------------

    def allocate_pinned(self, nbytes: int) -> int:
        """The address of ``nbytes`` of page-locked memory."""
        address = ctypes.c_void_p()
        self._check("cudaMallocHost", ctypes.byref(address), ctypes.c_size_t(nbytes))
        assert address.value is not None
        return address.value

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""
        self._check("cudaFreeHost", ctypes.c_void_p(address))

    # -- streams and events ----------------------------------------------------------------------------------------------

    def new_stream(self) -> Any:
        """A stream that runs beside the default one."""
        stream = ctypes.c_void_p()
        self._check("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        return stream

    def free_stream(self, stream: Any) -> None:
        """End a stream."""
        self._check("cudaStreamDestroy", stream)

    def new_event(self) -> Any:
        """An event: a place in a stream that others can wait for."""
        event = ctypes.c_void_p()
        self._check("cudaEventCreate", ctypes.byref(event))
        return event

    def free_event(self, event: Any) -> None:
        """End an event."""
        self._check("cudaEventDestroy", event)

    def record(self, event: Any, stream: Any = None) -> None:
        """Put ``event`` behind what ``stream`` has to do until now."""
        self._check("cudaEventRecord", event, stream)

    def stream_waits(self, stream: Any, event: Any) -> None:
        """What comes in ``stream`` from now on waits for ``event``."""
        self._check("cudaStreamWaitEvent", stream, event, ctypes.c_uint(0))

    def wait(self, event: Any) -> None:
        """Wait here for ``event``."""
        self._check("cudaEventSynchronize", event)

    def copy_down(self, host: int, device: int, nbytes: int, stream: Any) -> None:
        """Copy from the GPU, when ``stream`` comes to it."""
        self._copy(host, device, nbytes, _DEVICE_TO_HOST, stream)

    def copy_up(self, device: int, host: int, nbytes: int, stream: Any) -> None:
        """Copy to the GPU, when ``stream`` comes to it."""
        self._copy(device, host, nbytes, _HOST_TO_DEVICE, stream)

    def _copy(self, to: int, source: int, nbytes: int, kind: int, stream: Any) -> None:
        arguments = (ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(nbytes), ctypes.c_int(kind), stream)
        self._check("cudaMemcpyAsync", *arguments)

    # -- errors ----------------------------------------------------------------------------------------------------------

    def _check(self, function: str, *arguments: Any) -> None:
        code = getattr(self._runtime, function)(*arguments)
        if code:
            said = self._runtime.cudaGetErrorString(code) or b"no message"
            raise DeviceError(f"the GPU's {function} failed: {said.decode(errors='replace')} (error {code})")

    def _check_driver(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code == 100:  # CUDA_ERROR_NO_DEVICE
            raise DeviceError("no NVIDIA GPU here, though there is a driver; ", *_ELSEWHERE)
        if code:
            raise DeviceError(f"the NVIDIA driver cannot be used: {function} gave error {code}; `nvidia-smi` may say more")


@cache
def load_driver() -> Driver:
    """The libraries of this machine. Raises DeviceError."""
    return Driver()


def find_gpu(driver: Driver, index: int) -> Gpu:
    """The GPU ``index``. Raises DeviceError that names those that are there."""
    gpus = driver.gpus()
    if not gpus:
        raise DeviceError("no NVIDIA GPU here, though there is a driver; ", *_ELSEWHERE)
    if index >= len(gpus):
        raise DeviceError(
            TARGET.given(f"cuda:{index}", f"'cuda:{index}'"),
            f": no such GPU; there {'is' if len(gpus) == 1 else 'are'} {', '.join(map(str, gpus))}",
        )
    return gpus[index]


def _load_runtime() -> ctypes.CDLL:
    candidates = [Path(_RUNTIME), *_packaged()]
    for candidate in candidates:
        try:
            return ctypes.CDLL(str(candidate), mode=ctypes.RTLD_GLOBAL)
        except OSError:  # noqa: PERF203 -- a few places, once
            continue
    raise DeviceError(f"the CUDA runtime library {_RUNTIME} is not here; {_INSTALL}")


def _packaged() -> list[Path]:
    """Where the runtime library lies if it comes from PyPI (the package nvidia-cuda-runtime), or from a toolkit in its usual place."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(place) for place in (spec.submodule_search_locations or [])] if spec is not None else []
    found = [path for root in roots for path in sorted(root.glob(f"**/lib/{_RUNTIME}"))]
    return [*found, Path("/usr/local/cuda/lib64") / _RUNTIME]
