"""Runs compiled programs on a model's weights, with TVM's runtime alone."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import decode_by_gguf, weight_format, weight_storage
from aprgraph.graph.calling_convention import (
    CHOICE_FUNCTION,
    ENTRY,
    RESIDENT_WEIGHTS,
    STATISTICS_CHUNK,
    STATISTICS_COLUMNS,
    STATISTICS_KERNEL,
    TAP_FUNCTION,
    USED_FUNCTION,
    cache_nodes,
    computed_types,
    half_table,
    program_parameters,
    returned_nodes,
    weight_nbytes,
)
from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import Model
from aprgraph.runtime.aprt import F32
from aprgraph.runtime.engine import Choices, OnTap
from aprgraph.runtime.statistics import Statistics, statistics_from_sums

_ITEMSIZE = 4
_RUNTIME_ALONE = "TVM_USE_RUNTIME_LIB"
#: How many chunks of a tensor in a file are summarised at once: 16 MiB.
_CHUNKS_AT_ONCE = 256


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
    """Kernels, a model's weights, and the KV caches of one text; ``load`` adds programs that work on them.

    Weights are the file's own pages: nothing is copied, a page is read when a kernel touches it, and given back when many have
    been (the system keeps it in its cache while there is room). Those of a block format that kernels do not decode are the
    exception: the `gguf` package decodes them, once. Caches have ``capacity`` rows.
    Raises ArtifactError if the kernels cannot be loaded.
    """

    def __init__(self, kernels: Path, model: Model, threads: int | None = None, *, capacity: int = 0, runtime_alone: bool = False) -> None:
        self._tvm = load_tvm(runtime_alone=runtime_alone)
        self.threads = threads or default_threads()
        self.capacity = capacity
        self._model = model
        self._directory = kernels.parent
        self.kernels = self._guarded(lambda: self._tvm.runtime.load_module(str(kernels)))
        self._statistics = self.kernels[STATISTICS_KERNEL]
        self._partial: dict[int, tuple[Any, npt.NDArray[np.float64]]] = {}  # results of the statistics kernel, by number of rows
        self.halves = self._tvm.runtime.tensor(half_table())
        self._weights: dict[str, Any] = {}
        self._caches: dict[str, Any] = {}
        self._running: _Run | None = None
        self._touched = 0  # bytes of weights that may be in memory

    def _guarded(self, load: Any) -> Any:
        try:
            return load()
        except Exception as error:  # noqa: BLE001 -- TVM raises whatever its loader raised
            raise ArtifactError(f"{self._directory}: cannot be loaded ({_first_line(error)}); compile the model again") from None

    def load(self, program: Path, graph: Graph, *, single_pass: bool = True) -> Program:
        """The program of ``graph`` in the file ``program``. Raises ArtifactError if it cannot be loaded."""
        from tvm.runtime.vm import VirtualMachine  # noqa: PLC0415

        executable = self._guarded(lambda: self._tvm.get_global_func("relax.ExecutableLoadFromFile")(str(program)))
        executable.import_module(self.kernels)
        # The machine looks functions up by name, once, when it is made.
        self._tvm.register_global_func(TAP_FUNCTION, self._tap, override=True)
        self._tvm.register_global_func(CHOICE_FUNCTION, self._choice, override=True)
        self._tvm.register_global_func(USED_FUNCTION, self._used, override=True)
        return Program(self, VirtualMachine(executable, self._tvm.cpu()), graph, single_pass=single_pass)

    # -- what programs are given -----------------------------------------------------------------------------------------

    def weight(self, node: Node) -> Any:
        """The weight of a `weight` node, as kernels take it."""
        if node.name not in self._weights:
            self._weights[node.name] = self._bind(node)
        return self._weights[node.name]

    def _bind(self, node: Node) -> Any:
        from tvm_ffi import from_dlpack  # noqa: PLC0415

        dtype, dims = weight_storage(node.type)
        raw = self._model.file.tensor_bytes(self._model.tensor(node.attr_str("tensor")))
        fmt = weight_format(node.type)
        if fmt.is_decoded_when_bound:
            return self._tvm.runtime.tensor(decode_by_gguf(fmt, raw, dims))
        return from_dlpack(raw.reshape(-1).view(dtype).reshape(dims))

    def cache(self, node: Node, rows: int) -> Any:
        """The first ``rows`` rows of the cache of a `cache` node."""
        columns = int(node.type.dims[1])
        if node.name not in self._caches:
            self._caches[node.name] = self._tvm.runtime.empty((self.capacity, columns), "float32")
        assert rows <= self.capacity
        return self._caches[node.name]._create_view((rows, columns))  # noqa: SLF001 -- TVM has no public reshape without a copy

    # -- what programs call ----------------------------------------------------------------------------------------------

    def start(self, run: _Run) -> None:
        """``run`` is what taps and choices belong to from now on."""
        self._running = run
        self._tvm.get_global_func("runtime.config_threadpool")(1, self.threads)

    def stop(self) -> None:
        """Taps and choices belong to nothing any more."""
        self._running = None

    def tensor(self, values: npt.NDArray[Any]) -> Any:
        """A TVM tensor of ``values``."""
        return self._tvm.runtime.tensor(values)

    def shape(self, values: Sequence[int]) -> Any:
        """A TVM shape."""
        return self._tvm.runtime.ShapeTuple(values)

    def _tap(self, value: Any, name: str) -> None:
        if self._running is not None and self._running.on_tap is not None:
            run, on_tap = self._running, self._running.on_tap
            run.keep_failure(lambda: on_tap(run.graph[str(name)], np.from_dlpack(value), self._summarise(value)))  # type: ignore[arg-type]

    def _choice(self, value: Any, name: str) -> None:
        if self._running is not None:
            run = self._running
            run.keep_failure(lambda: run.choices.see(run.graph[str(name)], np.from_dlpack(value), run.first))

    def _used(self, name: str) -> None:
        if self._running is not None:
            weights = (node for node in self._running.graph.operands(str(name)) if node.op == "weight")
            self._touched += sum(weight_nbytes(node) for node in weights)
            if self._touched > RESIDENT_WEIGHTS:
                self._model.file.release()
                self._touched = 0

    # -- statistics ------------------------------------------------------------------------------------------------------

    def _summarise(self, value: Any) -> Statistics:
        """The statistics of a TVM tensor, by the kernel: one pass on all threads."""
        count = math.prod(value.shape)
        return _from_rows(count, self._rows(value, count))

    def summarise(self, values: F32) -> Statistics:
        """The same of a tensor that lies anywhere, as in a file: the same bits, in bounded memory."""
        flat = values.reshape(-1)
        step = _CHUNKS_AT_ONCE * STATISTICS_CHUNK
        pieces = [flat[start : start + step] for start in range(0, flat.size, step)]
        rows = [self._rows(self.tensor(np.ascontiguousarray(piece)), piece.size).copy() for piece in pieces]
        return _from_rows(flat.size, np.concatenate(rows))

    def _rows(self, value: Any, count: int) -> npt.NDArray[np.float64]:
        chunks = -(-count // STATISTICS_CHUNK)
        if chunks not in self._partial:
            buffer = self._tvm.runtime.empty((chunks, STATISTICS_COLUMNS), "float64")
            view: npt.NDArray[np.float64] = np.from_dlpack(buffer)  # type: ignore[assignment]  # it is what was asked for
            self._partial[chunks] = (buffer, view)
        buffer, rows = self._partial[chunks]
        self._statistics(value._create_view((count,)), buffer)  # noqa: SLF001
        return rows


class _Run:
    """One pass of a program: who is told of its taps, and what went wrong in them."""

    def __init__(self, graph: Graph, first: int, on_tap: OnTap | None) -> None:
        self.graph, self.first, self.on_tap, self.choices = graph, first, on_tap, Choices()
        self.failure: BaseException | None = None

    def keep_failure(self, call: Any) -> None:
        """TVM would turn an exception into one of its own, so it is kept, and raised when the program has ended."""
        try:
            call()
        except BaseException as error:
            self.failure = error
            raise


class Program:
    """A program of a session. One of a ``single_pass`` does without caches, so it starts at position 0 every time."""

    def __init__(self, session: Session, machine: Any, graph: Graph, *, single_pass: bool) -> None:
        self._session = session
        self._machine = machine
        self.graph = graph
        self._single_pass = single_pass
        self._parameters = program_parameters(graph)
        self._caches = [] if single_pass else cache_nodes(graph)
        self._types = computed_types(graph)

    def run(self, tokens: Sequence[int], on_tap: OnTap | None = None, start: int = 0) -> dict[str, F32]:
        """See ``Engine.run``."""
        assert start == 0 or not self._single_pass
        session, total = self._session, start + len(tokens)
        inputs = {
            "tokens": session.tensor(np.asarray(tokens, dtype=np.int32)),
            "positions": session.tensor(np.arange(start, total, dtype=np.int32)),
        }
        arguments = [inputs[node.name] if node.op == "input" else session.weight(node) for node in self._parameters]
        arguments += [session.cache(node, total) for node in self._caches]
        shapes = [kind.bind(n=len(tokens), t=total) for kind in self._types]
        arguments += [session.halves, session.shape([math.prod(shape) * _ITEMSIZE for shape in shapes])]
        run = _Run(self.graph, start, on_tap)
        session.start(run)
        try:
            results = self._machine[ENTRY](*arguments)
        except Exception as error:
            if run.failure is not None:
                raise run.failure from None
            if "bad_alloc" in str(error):  # TVM's allocator is C++
                raise MemoryError(f"{len(tokens)} positions do not fit into memory") from None
            raise
        finally:
            session.stop()
        run.choices.check()
        return {node.name: np.array(np.from_dlpack(value)) for node, value in zip(returned_nodes(self.graph), results, strict=True)}


def _from_rows(count: int, rows: npt.NDArray[np.float64]) -> Statistics:
    nan, inf, low, high, total, squares = rows[0].tolist()
    if len(rows) > 1:
        nan, inf, _, _, total, squares = rows.sum(axis=0).tolist()
        low, high = float(rows[:, 2].min()), float(rows[:, 3].max())
    return statistics_from_sums(count, int(nan), int(inf), low, high, total, squares)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
