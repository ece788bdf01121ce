"""TVM's runtime, without the Python package `tvm` (graph/tvm_libraries.py): its tensors, its machine, and what its errors say."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.machine_code import MachineCode
from aprgraph.graph.tvm_libraries import RUNTIME, load_tvm_library

_LOAD_LIBRARY = "ffi.Module.load_from_file.so"
_LOAD_EXECUTABLE = "ffi.Module.load_from_bytes.relax.VMExecutable"
#: TVM's virtual machine reuses the memory of values that are let go (AllocatorType::kPooled, memory_manager.h).
_POOLED = 2
#: kDLCPU of DLPack: the machine needs a CPU beside the device, for shapes.
_CPU = 1
#: Libraries stay loaded as long as the process lives, as with TVM's own load_module: objects may outlive sessions.
_loaded: list[Any] = []


class TvmRuntime:
    """TVM's C++ runtime. Functions raise what TVM raises. ``load_tvm_runtime`` gives the one of this process."""

    def __init__(self, ffi: Any, library: Path) -> None:
        self._ffi = ffi
        #: The shared library; those of devices lie beside it.
        self.library = library
        self._alloc = self.function("runtime.TVMTensorAllocWithScope")
        self._view = self.function("runtime.TVMTensorCreateView")
        self._fill = self.function("runtime.TVMTensorCopyFromBytes")

    def function(self, name: str) -> Any:
        """TVM's function ``name``."""
        return self._ffi.get_global_func(name)

    def has_function(self, name: str) -> bool:
        """Whether TVM has a function ``name``, which it may have of a device alone."""
        return self._ffi.get_global_func(name, allow_missing=True) is not None

    def register(self, name: str, function: Callable[..., Any]) -> None:
        """Let compiled code call ``function`` by ``name``."""
        self._ffi.register_global_func(name, function, override=True)

    def device(self, kind: str, index: int = 0) -> Any:
        """The device number ``index`` of a ``kind``, "cpu" or "cuda"."""
        return self._ffi.device(kind, index)

    def shape(self, values: Sequence[int]) -> Any:
        """A TVM shape."""
        return self._ffi.Shape(values)

    # -- tensors ---------------------------------------------------------------------------------------------------------

    def empty(self, shape: Sequence[int], dtype: str, device: Any) -> Any:
        """A tensor on ``device`` whose elements are whatever was there."""
        return self._alloc(self._ffi.Shape(shape), self._ffi.dtype(dtype), device, None)

    def tensor(self, values: npt.NDArray[Any], device: Any) -> Any:
        """A tensor on ``device`` with a copy of ``values``."""
        return self.fill(self.empty(values.shape, values.dtype.name, device), values)

    def fill(self, tensor: Any, values: npt.NDArray[Any]) -> Any:
        """``tensor``, with ``values`` of its shape and dtype copied into it."""
        assert tuple(tensor.shape) == values.shape
        assert str(tensor.dtype) == values.dtype.name
        values = np.ascontiguousarray(values)
        self._fill(tensor, values.ctypes.data_as(ctypes.c_void_p), values.nbytes)
        return tensor

    def view(self, tensor: Any, shape: Any) -> Any:
        """The first elements of ``tensor`` in another ``shape``, in the same memory."""
        return self._view(tensor, shape, tensor.dtype, 0)

    def from_dlpack(self, values: npt.NDArray[Any]) -> Any:
        """A tensor in the memory of ``values``, which must be writable."""
        return self._ffi.from_dlpack(values)

    # -- compiled code ---------------------------------------------------------------------------------------------------

    def load_library(self, library: MachineCode) -> Any:
        """The module of a kernel library. What TVM raises where it cannot be loaded is as various as its causes.

        TVM's own load_module would want a file with a name, which others could replace after it was verified.
        """
        module = self.function(_LOAD_LIBRARY)(library.path(), "so")
        _loaded.append(module)
        return module

    def load_executable(self, program: bytes) -> Any:
        """The program of VM bytecode. Raises what TVM raises for bytes that are none."""
        return self.function(_LOAD_EXECUTABLE)(program)

    def machine(self, executable: Any, device: Any) -> Any:
        """A virtual machine that runs ``executable`` on ``device``. It looks up, once, what is registered now."""
        machine = executable["vm_load_executable"]()
        devices = [(int(device.dlpack_device_type()), device.index)]
        if devices[0][0] != _CPU:
            devices.append((_CPU, 0))
        machine["vm_initialization"](*(value for kind, index in devices for value in (kind, index, _POOLED)))
        return machine


@functools.cache
def load_tvm_runtime() -> TvmRuntime:
    """TVM's runtime in this process. Raises ArtifactError where the package is there without its library."""
    try:
        return TvmRuntime(*load_tvm_library(RUNTIME))
    except (RuntimeError, OSError) as error:
        raise ArtifactError(f"TVM's runtime cannot be loaded: {first_line(error)}; install apache-tvm again") from None


def first_line(error: Exception) -> str:
    """What an error of TVM's says: its last line, behind those that say where it came from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
