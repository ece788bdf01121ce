"""Runs compiled programs on a model's weights, with TVM's runtime alone."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.calling_convention import (
    CHOICE_FUNCTION,
    CHUNKS_KERNEL,
    ENTRY,
    FILES_KERNEL,
    RESIDENT_WEIGHTS,
    STATISTICS_CHUNK,
    STATISTICS_COLUMNS,
    STATISTICS_KERNEL,
    TAP_FUNCTION,
    USED_FUNCTION,
    computed_types,
    half_table,
    program_parameters,
    returned_nodes,
    weight_nbytes,
)
from aprgraph.graph.errors import AprgraphError, ArtifactError
from aprgraph.graph.interrupts import held, let_through
from aprgraph.graph.ir import Graph, Node, TensorType
from aprgraph.graph.machine_code import MachineCode
from aprgraph.graph.ops import is_weight, state_type, states_of
from aprgraph.graph.tvm_libraries import default_threads
from aprgraph.graph.weight_pieces import comes_in_pieces
from aprgraph.runtime.engine import Choices, OnTap, Received
from aprgraph.runtime.kernel_values import exportable, statistics_from_rows, statistics_of_all, weight_array, weight_in_memory
from aprgraph.runtime.native_files import write_natively
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics
from aprgraph.runtime.trace.writing_between import WriteFiles
from aprgraph.runtime.tvm_runtime import TvmRuntime, first_line, load_tvm_runtime
from aprgraph.runtime.weight_scales import Tensors

#: Called with the arrays of tensors that were fetched; they are good until it returns.
Receive = Callable[..., None]

_ITEMSIZE = 4
#: How many chunks of a tensor in a file are summarised at once: 16 MiB.
CHUNKS_AT_ONCE = 256
#: Values that are summarised together at most, and bytes of them: these are still in a processor's cache.
_TOGETHER, _BYTES_TOGETHER = 64, 1 << 20
#: Held while a session's functions have their names, which are the whole process's, and a machine looks them up.
_NAMES_LOCK = threading.Lock()


class Session:
    """Kernels, a model's weights, and the states of one text (KV caches); ``load`` adds programs that work on them.

    Weights are the file's own pages: nothing is copied, a page is read when a kernel touches it, and given back when many have
    been (the system keeps it in its cache while there is room). Those of a block format that kernels do not decode are the
    exception: the `gguf` package decodes them, once. States that grow have ``capacity`` rows.
    Raises ArtifactError if the kernels cannot be loaded.

    What depends on where all of it lies is in the methods of the section "on the device", which runtime/cuda replaces.
    """

    def __init__(self, kernels: MachineCode, model: Tensors, threads: int | None = None, *, capacity: int = 0) -> None:
        self._tvm = self._load_tvm()
        self.threads = threads or default_threads()
        self.capacity = capacity
        self._model = model
        self._directory = kernels.place.parent
        self.kernels = self._guarded(lambda: self._load_kernels(kernels))
        self._statistics = self.kernels[STATISTICS_KERNEL]
        self.half_table = self._make_half_table()
        self._weights: dict[str, list[Any]] = {}
        self._held: dict[str, object] = {}  # what weights in pieces lie in
        self._states: dict[str, Any] = {}
        self._running: _Run | None = None
        self._tapped: list[tuple[Node, F32, int]] = []  # values that nobody has been told of, and their addresses
        self._tapped_bytes = 0
        self._touched = 0  # bytes of weights that may be in memory

    def close(self) -> None:
        """Free what is not freed with the session object itself."""

    def _guarded(self, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except AprgraphError:
            raise
        except Exception as error:  # noqa: BLE001 -- TVM raises whatever its loader raised
            if isinstance(error, OSError) and error.errno == errno.EFBIG:  # a file in memory is one too
                why = "cannot be loaded, as it is larger than files may be here"
                raise ArtifactError(f"{self._directory}: {why}; raise the limit (`ulimit -f` of the shell)") from None
            raise ArtifactError(f"{self._directory}: cannot be loaded ({first_line(error)}); compile the model again") from None

    def load(self, program: bytes, graph: Graph) -> Program:
        """The program of ``graph``, from its VM bytecode. Raises ArtifactError if it cannot be loaded."""
        executable = self._guarded(lambda: self._tvm.load_executable(program))
        executable.import_module(self.kernels)
        # The machine looks functions up by name, once, when it is made: no other thread may give them to its session meanwhile.
        with _NAMES_LOCK:
            self._tvm.register(TAP_FUNCTION, self._tap)
            self._tvm.register(CHOICE_FUNCTION, self._choice)
            self._tvm.register(USED_FUNCTION, self._used)
            machine = self._tvm.machine(executable, self._device())
        return Program(self, machine, graph)

    # -- on the device -----------------------------------------------------------------------------------------------------

    def _load_tvm(self) -> TvmRuntime:
        return load_tvm_runtime()

    def _device(self) -> Any:
        """The TVM device."""
        return self._tvm.device("cpu")

    def _load_kernels(self, library: MachineCode) -> Any:
        return self._tvm.load_library(library)

    def _make_half_table(self) -> Any | None:
        """What programs are given for it; None for those that take none."""
        return self._tvm.tensor(half_table(), self._device())

    def _bind(self, node: Node) -> list[Any]:
        """The weight of a `weight` node, as kernels take it."""
        if comes_in_pieces(node.type):
            weight = weight_in_memory(self._model, node)
            self._held[node.name] = weight.held
            return [self._tvm.from_dlpack(weight.span), self.tensor(weight.places)]
        array = weight_array(self._model, node)
        decoded = weight_format(node.type).is_decoded_when_bound
        return [self.tensor(array) if decoded else self._tvm.from_dlpack(exportable(array))]

    def tensor(self, values: npt.NDArray[Any]) -> Any:
        """A TVM tensor of ``values``."""
        return self._tvm.tensor(values, self._device())

    def _empty(self, shape: Sequence[int], dtype: str) -> Any:
        return self._tvm.empty(shape, dtype, self._device())

    def _clear(self, tensor: Any) -> None:
        """Fill a tensor of f32 with zeros."""
        self._tvm.fill(tensor, np.zeros(tensor.shape, np.float32))

    def fetch(self, tensors: Sequence[Any], receive: Receive) -> None:
        """Call ``receive`` with the tensors as arrays, now or soon; in the order of the calls, and before ``wait`` returns."""
        receive(*(np.from_dlpack(tensor) for tensor in tensors))

    def _tell(self, on_tap: OnTap, node: Node, value: Any) -> None:
        """Have ``on_tap`` called, before ``wait`` returns. Small values are summarised together, which takes half as long."""
        array = cast("F32", np.from_dlpack(value))
        self._tapped.append((node, array, value.data_ptr()))
        self._tapped_bytes += array.nbytes
        if len(self._tapped) >= _TOGETHER or self._tapped_bytes >= _BYTES_TOGETHER:
            self._tell_all(on_tap)

    def _tell_all(self, on_tap: OnTap) -> None:
        tapped, self._tapped, self._tapped_bytes = self._tapped, [], 0
        values = [(array, address) for _, array, address in tapped]
        statistics = statistics_of_all(self.kernels[CHUNKS_KERNEL], self._tvm.from_dlpack, values)
        for (node, array, _), of_it in zip(tapped, statistics, strict=True):
            let_through()
            on_tap(node, array, of_it)

    def wait(self) -> None:
        """Wait until all fetches have called their ``receive``, and all taps have been told of."""
        if self._tapped:
            run = self._running
            assert run is not None
            assert run.on_tap is not None
            on_tap = run.on_tap
            run.keep_failure(lambda: self._tell_all(on_tap))

    def explain(self, error: Exception, positions: int) -> None:
        """Raise an error that explains ``error``, which TVM raised, if its cause is known."""
        if "bad_alloc" in str(error):  # TVM's allocator is C++
            raise MemoryError(f"{positions} positions do not fit into memory") from None

    # -- what programs are given -----------------------------------------------------------------------------------------

    def weight(self, node: Node) -> list[Any]:
        """The weight of a `weight` node, as kernels take it: with the table of places of one that comes in pieces."""
        if node.name not in self._weights:
            self._weights[node.name] = self._bind(node)
        return self._weights[node.name]

    def state(self, name: str, kind: TensorType, start: int, shape: Any) -> Any:
        """The state of the node ``name`` for a pass from position ``start`` on: of one that grows, the rows that ``shape`` has."""
        if name not in self._states:
            self._states[name] = self._empty(kind.bind(t=self.capacity), "float32")
        if "t" not in kind.dims:
            if start == 0:
                self._clear(self._states[name])
            return self._states[name]
        return self._tvm.view(self._states[name], shape)

    def shape(self, values: Sequence[int]) -> Any:
        """A TVM shape."""
        return self._tvm.shape(values)

    # -- what programs call ----------------------------------------------------------------------------------------------

    def start(self, run: _Run) -> None:
        """From now on, taps and choices belong to ``run``."""
        self._running = run
        self._tvm.function("runtime.config_threadpool")(1, self.threads)

    def stop(self) -> None:
        """The run is over: no taps or choices are expected."""
        self._running = None
        self._tapped, self._tapped_bytes = [], 0

    def _tap(self, value: Any, name: str) -> None:
        run = self._running
        if run is not None and run.on_tap is not None:
            node, on_tap = run.graph[str(name)], run.on_tap
            run.keep_failure(lambda: self._tell(on_tap, node, value))

    def _choice(self, value: Any, name: str) -> None:
        if self._running is not None:
            run, node = self._running, self._running.graph[str(name)]
            run.keep_failure(lambda: self.fetch([value], lambda ids: run.choices.see(node, ids, run.first)))

    def _used(self, name: str) -> None:
        # What comes behind a first pass reads all weights again for each token: their pages stay, as long as the system has room.
        if self._running is not None and self._running.first == 0:
            run, node = self._running, str(name)
            run.keep_failure(lambda: self._release_used(run.graph, node))

    def _release_used(self, graph: Graph, name: str) -> None:
        self._touched += sum(weight_nbytes(node) for node in graph.operands(name) if is_weight(node))
        if self._touched > RESIDENT_WEIGHTS:
            self._model.file.release()
            self._touched = 0

    # -- files -----------------------------------------------------------------------------------------------------------

    @property
    def write_files(self) -> WriteFiles | None:
        """See ``Engine.write_files``: an array that is held holds the memory of its tensor, which is that value's own."""
        return partial(write_natively, self.kernels[FILES_KERNEL], self._tvm.from_dlpack, self.threads)

    # -- statistics ------------------------------------------------------------------------------------------------------

    def summarise(self, values: F32) -> Statistics:
        """The statistics of a tensor that lies anywhere, as in a file: those that a tap is given, in bounded memory."""
        return statistics_from_rows(values.size, self.summary_rows(values))

    def summary_rows(self, values: F32) -> npt.NDArray[np.float64]:
        """What the statistics kernel says of such a tensor."""
        flat = values.reshape(-1)
        step = CHUNKS_AT_ONCE * STATISTICS_CHUNK
        found: list[npt.NDArray[np.float64]] = []
        for start in range(0, flat.size, step):
            piece = flat[start : start + step]
            self.fetch([self._rows(self._piece(np.ascontiguousarray(piece)), piece.size)], lambda rows: found.append(rows.copy()))
        self.wait()
        return np.concatenate(found)

    def _piece(self, values: F32) -> Any:
        """A TVM tensor of ``values``, for the statistics kernel alone."""
        return self.tensor(values)

    def _rows(self, value: Any, count: int) -> Any:
        """What the statistics kernel says of a tensor."""
        rows = self._empty((-(-count // STATISTICS_CHUNK), STATISTICS_COLUMNS), "float64")
        self._summarise_into(rows, value, count)
        return rows

    def _summarise_into(self, rows: Any, value: Any, count: int) -> None:
        self._statistics(self._tvm.view(value, self.shape((count,))), rows)


class _Run:
    """One pass of a program: who is told of its taps, and what went wrong in them."""

    def __init__(self, graph: Graph, first: int, on_tap: OnTap | None, choices: Choices) -> None:
        self.graph, self.first, self.on_tap, self.choices = graph, first, on_tap, choices
        self.failure: BaseException | None = None

    def keep_failure(self, call: Any) -> None:
        """TVM would turn an exception into one of its own, so it is kept, and raised when the program has ended.

        So is what the handler of an interrupt raises, which ends the program early.
        """
        try:
            let_through()
            call()
        except BaseException as error:
            self.failure = error
            raise


class Program:
    """A program of a session."""

    def __init__(self, session: Session, machine: Any, graph: Graph) -> None:
        self._session = session
        self._machine = machine
        self.graph = graph
        self._parameters = [(node, is_weight(node)) for node in program_parameters(graph)]
        self._states = {node.name: state_type(graph, node) for node in states_of(graph)}
        self._types = computed_types(graph)

    def run(self, tokens: Sequence[int], on_tap: OnTap | None = None, start: int = 0, received: Received | None = None) -> dict[str, F32]:
        """See ``PartEngine.run``."""
        session, total = self._session, start + len(tokens)
        found = received or Received({}, Choices())
        inputs = {
            **{name: session.tensor(value) for name, value in found.values.items()},
            "tokens": session.tensor(np.asarray(tokens, dtype=np.int32)),
            "positions": session.tensor(np.arange(start, total, dtype=np.int32)),
        }
        arguments = [value for node, is_held in self._parameters for value in (session.weight(node) if is_held else (inputs[node.name],))]
        assert total <= session.capacity or not any("t" in kind.dims for kind in self._states.values())
        grown = {kind: session.shape(kind.bind(t=total)) for kind in set(self._states.values())}
        arguments += [session.state(name, kind, start, grown[kind]) for name, kind in self._states.items()]
        shapes = [kind.bind(n=len(tokens), t=total) for kind in self._types]
        arguments += [] if session.half_table is None else [session.half_table]
        arguments.append(session.shape([math.prod(shape) * _ITEMSIZE for shape in shapes]))
        run = _Run(self.graph, start, on_tap, found.choices)
        session.start(run)
        outputs: list[F32] = []
        try:
            with held(may_end=True):
                for value in self._machine[ENTRY](*arguments):
                    session.fetch([value], lambda array: outputs.append(array.copy()))
                session.wait()
        except Exception as error:
            if run.failure is not None:
                raise run.failure from None
            session.explain(error, len(tokens))
            raise
        finally:
            session.stop()
        if received is None:
            found.choices.check()
        return {node.name: output for node, output in zip(returned_nodes(self.graph), outputs, strict=True)}
