"""TVM's runtime: loaded without its compiler where that is not needed, its threads, and what its errors say."""

from __future__ import annotations

import os
from typing import Any

from aprgraph.graph.interrupts import held
from aprgraph.graph.machine_code import MachineCode

_RUNTIME_ALONE = "TVM_USE_RUNTIME_LIB"
_LOAD_LIBRARY = "ffi.Module.load_from_file.so"
#: Libraries stay loaded as long as the process lives, as with TVM's own load_module: objects may outlive sessions.
_loaded: list[Any] = []


def default_threads() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def load_tvm(*, runtime_alone: bool) -> Any:
    """TVM. Its runtime alone halves the time to start, but then this process cannot load the compiler any more.

    It has no effect where the compiler is loaded already.
    """
    # Otherwise TVM takes half of the processors, on the assumption that every other one is a second hardware thread.
    os.environ.setdefault("TVM_NUM_THREADS", str(default_threads()))
    said = os.environ.get(_RUNTIME_ALONE)
    if runtime_alone:
        os.environ[_RUNTIME_ALONE] = "1"
    try:
        with held(may_end=True):  # half-imported, it cannot be imported again
            import tvm  # noqa: PLC0415 -- costs half a second
    finally:
        # Read at import; processes that this one starts must not inherit it.
        if runtime_alone and said is None:
            del os.environ[_RUNTIME_ALONE]
    return tvm


def load_library(tvm: Any, library: MachineCode) -> Any:
    """The module of a kernel library. What TVM raises where it cannot be loaded is as various as its causes.

    TVM's own load_module would want a file with a name, which others could replace after it was verified.
    """
    with library.file() as path:
        module = tvm.get_global_func(_LOAD_LIBRARY)(path, "so")
    _loaded.append(module)
    return module


def first_line(error: Exception) -> str:
    """What an error of TVM's says: its last line, behind those that say where it came from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
