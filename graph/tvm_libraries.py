"""TVM's C++ libraries, loaded without the Python package `tvm`, whose import reads the compiler's Python side for a second.

What they hold is reached by name through `tvm_ffi`. The package may be imported before or after in the same process: both use the
same libraries.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from aprgraph.graph.errors import ArtifactError, shown
from aprgraph.graph.interrupts import held, is_own_process

#: The library that runs compiled code, and the one that compiles, which needs the first.
RUNTIME, COMPILER = "tvm_runtime", "tvm_compiler"
#: How often a thread of TVM's yields while it waits for work, about a millisecond in all, before it sleeps (thread_pool.cc). TVM's
#: own 300,000 keep every processor busy between two runs; fewer than this, and threads fall asleep between two kernels.
_YIELDS = 2000
#: What `import tvm` imports and compiling does not need, and TVM's setting for the Python side of its devices. Sessions are not in this
#: build of TVM, which takes a third of a second to find that out: it reads all debug symbols, for a message that nobody sees.
_RELAX, _SESSIONS, _LOADS_DEVICES = "tvm.relax", "tvm.runtime.disco", "TVM_DEVICE_BACKEND_AUTOLOAD"
_THREADS, _MOST_THREADS = "TVM_NUM_THREADS", 1024


def default_threads() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def load_tvm_library(name: str) -> tuple[Any, Path]:
    """The module `tvm_ffi`, and the file of TVM's library ``name``, loaded. Raises RuntimeError or OSError where that is not there, and
    ArtifactError for a number of threads in the environment that is none.
    """
    # Otherwise TVM takes half of the processors, on the assumption that every other one is a second hardware thread.
    threads = os.environ.setdefault(_THREADS, str(default_threads()))
    # TVM makes room for each before the first begins: for 99,999,999 that is more memory than there is.
    if not (threads.isascii() and threads.isdigit() and len(threads) < 9 and 1 <= int(threads) <= _MOST_THREADS):
        raise ArtifactError(
            f"{_THREADS} is {shown(threads)}, expected a number of threads from 1 to {_MOST_THREADS}; set that, or unset it"
        )
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", str(_YIELDS))
    with held(may_end=True), torch_left_out():  # half-imported, it cannot be imported again
        import tvm_ffi  # noqa: PLC0415 -- costs a tenth of a second
        from tvm_ffi.libinfo import load_lib_ctypes  # noqa: PLC0415

        try:
            library = load_lib_ctypes("tvm", name, "RTLD_GLOBAL", extra_lib_paths=_places())
        except OSError as error:
            if "failed to map" in str(error):  # by the system's loader, which says no more
                raise MemoryError(f"TVM's library {name} cannot be mapped") from None
            raise
        return tvm_ffi, Path(library._name).resolve()  # noqa: SLF001 -- ctypes has no other


@contextlib.contextmanager
def torch_left_out() -> Iterator[None]:
    """In a command's process `tvm_ffi`, and `tvm`, which imports it, find no torch, which they would import for two seconds.

    A host's process may want both.
    """
    if "torch" in sys.modules or not is_own_process():
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # so an import of it fails
    try:
        yield
    finally:
        del sys.modules["torch"]


@contextlib.contextmanager
def compiler_alone() -> Iterator[None]:
    """In a command's process `import tvm` reads what compiles loops, a fifth of the package, and no torch.

    The rest is a second of Python that nothing here calls: Relax, sessions of several processes, and what makes TVM's languages
    know the instructions of each device. A host's process may want it.
    """
    if "tvm" in sys.modules or not is_own_process():
        yield
        return
    relax = ModuleType(_RELAX)
    sys.modules.update({_RELAX: relax, _SESSIONS: None})  # type: ignore[dict-item]  # None: an import of it fails, as TVM expects
    loads_devices = os.environ.get(_LOADS_DEVICES)
    os.environ[_LOADS_DEVICES] = "0"
    try:
        with torch_left_out():
            yield
    finally:
        if loads_devices is None:
            del os.environ[_LOADS_DEVICES]
        else:
            os.environ[_LOADS_DEVICES] = loads_devices
        del sys.modules[_RELAX], sys.modules[_SESSIONS]
        package = sys.modules.get("tvm")
        if getattr(package, "relax", None) is relax:
            del package.relax  # type: ignore[union-attr]  # so that a later import reads the real one


def _places() -> list[Path]:
    """Where TVM's own package looks for its libraries (tvm/libinfo.py), found without an import of the package."""
    told = os.environ.get("TVM_LIBRARY_PATH")
    found = importlib.util.find_spec("tvm")
    packages = [Path(place) for place in (found.submodule_search_locations or () if found is not None else ())]
    beside = [place / folder for place in packages for folder in ("lib", "../../build/lib", "../../lib")]
    return [*([Path(told)] if told else []), *beside]
