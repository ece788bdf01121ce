"""Runs a compiled program on a model's weights, with TVM's runtime alone."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import weight_storage
from aprgraph.graph.calling_convention import (
    ENTRY,
    STATISTICS_CHUNK,
    STATISTICS_COLUMNS,
    STATISTICS_KERNEL,
    TAP_FUNCTION,
    computed_types,
    half_table,
    program_parameters,
)
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import Model
from aprgraph.runtime.aprt import F32
from aprgraph.runtime.statistics import Statistics, statistics_from_sums

_ITEMSIZE = 4
_RUNTIME_ALONE = "TVM_USE_RUNTIME_LIB"

#: Called with a tap's node, its value (f32 in its shape; it stays as it is for as long as it is held) and its statistics.
OnTap = Callable[[Node, F32, Statistics], None]


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
        import tvm  # noqa: PLC0415 -- costs half a second
    finally:
        # Read at import; processes that this one starts must not inherit it.
        if runtime_alone and said is None:
            del os.environ[_RUNTIME_ALONE]
    return tvm


class Session:
    """A program, its kernels and a model's weights, ready to run.

    Weights are the file's own pages: nothing is copied, and a page is read when a kernel touches it.
    Raises ArtifactError if the files cannot be loaded.
    """

    def __init__(
        self, kernels: Path, program: Path, graph: Graph, model: Model, threads: int | None = None, *, runtime_alone: bool = False
    ) -> None:
        tvm = load_tvm(runtime_alone=runtime_alone)
        from tvm.runtime.vm import VirtualMachine  # noqa: PLC0415

        self._tvm = tvm
        self.graph = graph
        self.threads = threads or default_threads()
        try:
            self._kernels = tvm.runtime.load_module(str(kernels))
            executable = tvm.get_global_func("relax.ExecutableLoadFromFile")(str(program))
        except Exception as error:  # noqa: BLE001 -- TVM raises whatever its loader raised
            raise ArtifactError(f"{kernels.parent}: cannot be loaded ({_first_line(error)}); compile the model again") from None
        executable.import_module(self._kernels)
        self._statistics = self._kernels[STATISTICS_KERNEL]
        self._partial: dict[int, tuple[Any, npt.NDArray[np.float64]]] = {}  # results of the statistics kernel, by number of rows
        self._on_tap: OnTap | None = None
        self._failure: BaseException | None = None
        # The machine looks the function up by name, once, when it is made.
        tvm.register_global_func(TAP_FUNCTION, self._tap, override=True)
        self._machine = VirtualMachine(executable, tvm.cpu())
        self._parameters = program_parameters(graph)
        self._types = computed_types(graph)
        self._halves = tvm.runtime.tensor(half_table())
        self._weights = {node.name: self._bind(model, node) for node in self._parameters if node.op == "weight"}

    def _bind(self, model: Model, node: Node) -> Any:
        from tvm_ffi import from_dlpack  # noqa: PLC0415

        dtype, dims = weight_storage(node.type)
        raw = model.file.tensor_bytes(model.tensor(node.attr_str("tensor")))
        return from_dlpack(raw.reshape(-1).view(dtype).reshape(dims))

    def run(self, tokens: Sequence[int], on_tap: OnTap | None = None, start: int = 0) -> dict[str, F32]:
        """Run ``tokens`` at positions start, start + 1, …; ``on_tap`` is called as tapped tensors appear.

        Returns the outputs that are not taps, by node name. An exception raised by ``on_tap`` ends the run and is
        raised here. Raises MemoryError where the values do not fit into memory.
        """
        tensor = self._tvm.runtime.tensor
        positions = np.arange(start, start + len(tokens), dtype=np.int32)
        inputs = {"tokens": tensor(np.asarray(tokens, dtype=np.int32)), "positions": tensor(positions)}
        arguments = [inputs[node.name] if node.op == "input" else self._weights[node.name] for node in self._parameters]
        shapes = [kind.bind(n=len(tokens), t=start + len(tokens)) for kind in self._types]
        arguments.append(self._halves)
        arguments.append(self._tvm.runtime.ShapeTuple([math.prod(shape) * _ITEMSIZE for shape in shapes]))
        self._on_tap, self._failure = on_tap, None
        self._tvm.get_global_func("runtime.config_threadpool")(1, self.threads)
        try:
            results = self._machine[ENTRY](*arguments)
        except Exception as error:
            if self._failure is not None:
                raise self._failure from None
            if "bad_alloc" in str(error):  # TVM's allocator is C++
                raise MemoryError(f"{len(tokens)} positions do not fit into memory") from None
            raise
        finally:
            self._on_tap = None
        names = [name for name in self.graph.outputs if self.graph[name].op != "tap"]
        return {name: np.array(np.from_dlpack(value)) for name, value in zip(names, results, strict=True)}

    def _tap(self, value: Any, name: str) -> None:
        """What the program calls. TVM would turn an exception into one of its own, so it is kept and raised by ``run``."""
        if self._on_tap is None:
            return
        try:
            array: F32 = np.from_dlpack(value)  # type: ignore[assignment]  # a tap's value is f32
            self._on_tap(self.graph[str(name)], array, self._summarise(value))
        except BaseException as error:
            self._failure = error
            raise

    def _summarise(self, value: Any) -> Statistics:
        """The statistics of a tensor, by the kernel: one pass on all threads."""
        count = math.prod(value.shape)
        chunks = -(-count // STATISTICS_CHUNK)
        if chunks not in self._partial:
            buffer = self._tvm.runtime.empty((chunks, STATISTICS_COLUMNS), "float64")
            view: npt.NDArray[np.float64] = np.from_dlpack(buffer)  # type: ignore[assignment]  # it is what was asked for
            self._partial[chunks] = (buffer, view)
        buffer, rows = self._partial[chunks]
        self._statistics(value._create_view((count,)), buffer)  # noqa: SLF001 -- TVM has no public reshape without a copy
        nan, inf, low, high, total, squares = rows[0].tolist()
        if chunks > 1:
            nan, inf, _, _, total, squares = rows.sum(axis=0).tolist()
            low, high = float(rows[:, 2].min()), float(rows[:, 3].max())
        return statistics_from_sums(count, int(nan), int(inf), low, high, total, squares)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
