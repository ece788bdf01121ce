"""Calls a function of TVM's host module, whose kernels run emulated: with the launches, sizes and checks of the code that will run.

The host module looks its kernels up among TVM's global functions when no module with them is imported into it: there stand, while
it is called, functions that launch here. Its tensors say that they lie on a GPU, and lie in guarded memory.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from .kernels import Kernels
from .runs import Argument, Buffer, EmulationError, Outputs, Run, run_all

_CUDA = 2
_TYPE_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_BFLOAT = 4
_SET_DEVICE = "__tvm_set_device"
_AXES = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")


def call_host(
    host: Any,
    name: str,
    kernels: Kernels,
    functions: str,
    args: Sequence[Argument],
    *,
    orders: Sequence[str | int] = ("ascending", "descending"),
) -> Outputs:
    """Call ``host[name]`` on ``args`` once for each of ``orders``, as Kernels.launch runs a kernel. Raises EmulationError.

    ``functions`` describes the kernels that it launches, as TVM's `runtime.LoadMetaDataFromJSON` reads it.
    """
    described = json.loads(functions)["func_info"]

    def execute(run: Run, values: Sequence[Buffer | float]) -> None:
        tensors = [_tensor(value) if isinstance(value, Buffer) else value for value in values]
        failures: list[EmulationError] = []
        with _registered(kernels, described, run, failures):
            try:
                host[name](*tensors)
            except Exception:
                if failures:  # what TVM made of it
                    raise failures[0] from None
                raise

    return run_all([f"{name}: argument {index}" for index in range(len(args))], args, orders, execute)


@dataclass
class _Target:
    """What the launches of a kernel go to. The host module keeps the function that it found, so one stays for good."""

    kernels: Kernels
    tags: list[str]
    run: Run
    failures: list[EmulationError]


_targets: dict[str, _Target] = {}


def _launch(name: str, *arguments: Any) -> None:
    target = _targets[name]
    count = len(arguments) - len(target.tags)
    sizes = dict(zip(target.tags, map(int, arguments[count:]), strict=True))
    shape = [sizes.pop(axis, 1) for axis in _AXES]
    dynamic_shared = sizes.pop("tirx.use_dyn_shared_memory", 0)
    if sizes:
        raise NotImplementedError(f"{name}: launch parameters {list(sizes)}")
    values = [argument.value or 0 if isinstance(argument, ctypes.c_void_p) else argument for argument in arguments[:count]]
    try:
        target.kernels.launch_once(name, shape[:3], shape[3:], values, target.run, dynamic_shared)
    except EmulationError as error:
        target.failures.append(error)
        raise


@contextmanager
def _registered(kernels: Kernels, described: dict[str, Any], run: Run, failures: list[EmulationError]) -> Iterator[None]:
    import tvm_ffi

    set_device = tvm_ffi.get_global_func(_SET_DEVICE)
    for name, function in described.items():
        _targets[name] = _Target(kernels, function["launch_param_tags"], run, failures)
        tvm_ffi.register_global_func(name, partial(_launch, name), override=True)
    tvm_ffi.register_global_func(_SET_DEVICE, lambda *_: None, override=True)
    try:
        yield
    finally:
        tvm_ffi.register_global_func(_SET_DEVICE, set_device, override=True)
        for name in described:
            tvm_ffi.registry.remove_global_func(name)


# --- tensors that say that they lie on a GPU (DLPack)


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int), ("device_id", ctypes.c_int), ("ndim", ctypes.c_int),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_held: dict[int, tuple[_DLManagedTensor, Any]] = {}


@cache
def _deleter() -> Any:
    return _Deleter(lambda address: _held.pop(address, None) and None)


class _Exported:
    """What from_dlpack asks for its tensor."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def __dlpack__(self, **_: Any) -> Any:
        buffer = self._buffer
        shape = (ctypes.c_int64 * max(len(buffer.dims), 1))(*buffer.dims)
        code = _BFLOAT if buffer.dtype.name == "bfloat16" else _TYPE_CODES[buffer.dtype.kind]
        kind = (code, buffer.dtype.itemsize * 8, 1)
        tensor = _DLTensor(buffer.address, _CUDA, 0, len(buffer.dims), *kind, ctypes.addressof(shape), None, 0)
        managed = _DLManagedTensor(tensor, None, ctypes.cast(_deleter(), ctypes.c_void_p))
        _held[ctypes.addressof(managed)] = (managed, shape)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(managed), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, 0


def _tensor(buffer: Buffer) -> Any:
    import tvm_ffi

    return tvm_ffi.from_dlpack(_Exported(buffer))
