"""Runs graphs on a TVM RPC server, node by node: the kernels of the artifact there, the order of the calls here.

A program, as a session on this machine runs it, would have to call back for every tap, with functions that the server has
not. The graph is walked here instead: a tap is one transfer when its value appears, and the kernels and their arguments are
those of a program, and so are all bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.calling_convention import (
    STATISTICS_CHUNK,
    STATISTICS_COLUMNS,
    STATISTICS_KERNEL,
    returned_nodes,
)
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.machine_code import MachineCode
from aprgraph.graph.model import Model
from aprgraph.graph.ops import (
    has_state,
    is_input,
    is_own_state,
    is_received,
    is_tap,
    is_weight,
    operand_named,
    state_type,
    traits_of,
    weights_of,
)
from aprgraph.graph.ops.lookup import rows_taken
from aprgraph.runtime.engine import Choices, OnTap, Received
from aprgraph.runtime.kernel_values import statistics_from_rows
from aprgraph.runtime.place import Place
from aprgraph.runtime.remote.address import RemoteAddress
from aprgraph.runtime.remote.connection import Connection, GpuCode
from aprgraph.runtime.remote.tensors import RemoteTensors, RemoteValue
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics

_DTYPES = {"f32": "float32", "i32": "int32"}
#: How many chunks of a tensor that lies here are summarised there at once: 16 MiB.
_CHUNKS_AT_ONCE = 256


@dataclass(frozen=True)
class KernelCall:
    """The kernel of a node: its name in the library, the numbers that it takes behind its operands, and whether it takes
    the half table before them.
    """

    symbol: str
    numbers: tuple[int | float, ...]
    takes_half_table: bool


@dataclass(frozen=True)
class ExecutedGraph:
    """What runs for the graph ``recorded``: the graph after the last passes, and the kernels of its nodes, by name."""

    recorded: Graph
    graph: Graph
    kernels: Mapping[str, KernelCall]


class RemoteEngine:
    """Runs graphs of one model on a TVM RPC server (see ``Engine``) until ``close``.

    ``graphs`` holds what is to be run, by id of the graph that ``run`` is given. ``capacity`` is the number of rows of
    states that grow. Where ``drops_weights``, a weight is dropped after its last use in a pass: no later one reads it.
    ``target_name`` is what traces name the target; ``cpu`` is the processor that the kernels are built for, its machine, and
    the flags in its /proc/cpuinfo. ``gpu_code`` is there for CUDA: traces then name the server's architecture too.
    Raises RemoteError, here and in each method.
    """

    write_files = None  # the server goes on

    def __init__(
        self,
        address: RemoteAddress,
        library: MachineCode,
        model: Model,
        graphs: Mapping[int, ExecutedGraph],
        threads: int | None,
        *,
        capacity: int,
        drops_weights: bool,
        target_name: str,
        cpu: tuple[str, str, Collection[str]],
        gpu_code: GpuCode | None = None,
    ) -> None:
        self._graphs, self.drops_weights, self.target_name = graphs, drops_weights, target_name
        self._kernels: dict[str, Callable[..., None]] = {}
        self._connection = Connection(address)
        self.tensors = RemoteTensors(self._connection, model, capacity)
        self.doing = self._connection.doing
        try:
            self._connection.check_cpu(*cpu)
            if gpu_code is not None:
                capability = self._connection.use_gpu(gpu_code)
                self.target_name = f"{target_name} sm_{capability[0]}{capability[1]}"
            self._find = self._connection.load(library, gpu_code)
            if threads is not None:
                self._connection.set_threads(threads)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the session, and with it what it holds on the server."""
        self._connection.close()

    def run(
        self, graph: Graph, tokens: Sequence[int], start: int, on_tap: OnTap | None, received: Received | None = None
    ) -> dict[str, F32]:
        """See ``PartEngine.run``."""
        found = received or Received({}, Choices())
        outputs = _Pass(self, self._graphs[id(graph)], tokens, start, on_tap, found).run()
        if received is None:
            found.choices.check()
        return outputs

    def kernel(self, symbol: str) -> Callable[..., None]:
        """The kernel ``symbol``."""
        if symbol not in self._kernels:
            self._kernels[symbol] = self._find(symbol)
        return self._kernels[symbol]

    def summarise(self, values: F32) -> Statistics:
        """See ``Engine.summarise``; the tensor is sent to the server for it, in pieces."""
        flat, step, rows = values.reshape(-1), _CHUNKS_AT_ONCE * STATISTICS_CHUNK, []
        with self._connection.doing("summarising a tensor"):
            for start in range(0, flat.size, step):
                piece = flat[start : start + step]
                value = self.tensors.send(piece)
                rows.append(self._statistics(value))
                self.tensors.free(value)
        return statistics_from_rows(flat.size, np.concatenate(rows))

    def summarise_value(self, value: RemoteValue) -> Statistics:
        """The same of a tensor there."""
        return statistics_from_rows(math.prod(value.shape), self._statistics(value))

    def _statistics(self, value: RemoteValue) -> npt.NDArray[np.float64]:
        count = math.prod(value.shape)
        rows = self.tensors.new_value((-(-count // STATISTICS_CHUNK), STATISTICS_COLUMNS), "float64")
        self.kernel(STATISTICS_KERNEL)(self._connection.view(value.space, (count,), "float32"), rows.tensor)
        found: npt.NDArray[np.float64] = self.tensors.fetch(rows)
        self.tensors.free(rows)
        return found


class _Pass:
    """One pass over a graph."""

    def __init__(
        self,
        engine: RemoteEngine,
        executed: ExecutedGraph,
        tokens: Sequence[int],
        start: int,
        on_tap: OnTap | None,
        received: Received,
    ) -> None:
        self._engine, self._tensors, self._on_tap, self._received = engine, engine.tensors, on_tap, received
        self._graph, self._kernels = executed.graph, executed.kernels
        self._start, self._count, self._total = start, len(tokens), start + len(tokens)
        self._inputs = {"tokens": np.asarray(tokens, np.int32), "positions": np.arange(start, self._total, dtype=np.int32)}
        self._values: dict[str, RemoteValue] = {}
        self._rows: dict[str, npt.NDArray[np.int64]] = {}  # which rows of weights the values of these nodes name
        self._left = {node.name: len(self._graph.users(node.name)) for node in weights_of(self._graph)}

    def run(self) -> dict[str, F32]:
        """The outputs that have no state and are no taps, by node name."""
        returned = {node.name for node in returned_nodes(self._graph)}
        outputs: dict[str, F32] = {}
        for node in self._graph:
            if is_weight(node):
                continue
            if is_tap(node):
                self._deliver(node)
                continue
            with self._engine.doing(f"computing {_label(node)}"):
                self._values[node.name] = self._value(node)
                self._values[node.name].uses += len(self._graph.users(node.name))
                if node.name in returned:
                    outputs[node.name] = self._tensors.fetch(self._values[node.name])
                self._forget_operands(node)
                self._release(node.name, 0)
        return outputs

    def _deliver(self, node: Node) -> None:
        operand = self._values[self._graph.operand_names(node.name)[0]]
        with self._engine.doing(f"fetching {_label(node)}"):
            if self._on_tap is not None:
                value, statistics = self._tensors.fetch(operand), self._engine.summarise_value(operand)
            self._forget_operands(node)
        if self._on_tap is not None:
            self._on_tap(node, value, statistics)

    def _value(self, node: Node) -> RemoteValue:
        engine, tensors, names = self._engine, self._tensors, self._graph.operand_names(node.name)
        if is_input(node):
            self._rows[node.name] = self._inputs[node.name].astype(np.int64)
            return tensors.send(self._inputs[node.name])
        if is_received(node):
            return tensors.send(self._received.values[node.name])
        results = []
        if has_state(node):
            results.append(tensors.state(node.name, state_type(self._graph, node), self._start, self._total))
        if not is_own_state(node):
            results.append(tensors.new_value(node.type.bind(n=self._count, t=self._total), _DTYPES[node.type.dtype]))
        value = results[-1]
        call = self._kernels[node.name]
        kernel = engine.kernel(call.symbol)
        given = [tensors.half_table()] if call.takes_half_table else []
        operands = (value for name in names for value in self._operand(node, name))
        kernel(*given, *operands, *call.numbers, *(result.tensor for result in results))
        if traits_of(node).chooses:
            ids = tensors.fetch(value)
            self._received.choices.see(node, ids, self._start)
            self._rows[node.name] = ids[~np.isnan(ids)].astype(np.int64)
        return value

    def _operand(self, node: Node, name: str) -> list[Any]:
        weight = self._graph[name]
        if not is_weight(weight):
            return [self._values[name].tensor]
        rows = None
        # Rows that nothing picks need not be sent, unless another node reads all of them.
        ids = traits_of(node).picks_rows_by
        if ids is not None and all(traits_of(user).picks_rows_by is not None for user in self._graph.users(name)):
            rows = self._rows.get(operand_named(self._graph, node, ids).name)
            rows = None if rows is None else rows_taken(node.attrs, rows, weight.type.bind()[0])
        return self._tensors.weight(weight, rows)

    def _forget_operands(self, node: Node) -> None:
        """What ``node`` was the last to read is dropped."""
        for name in set(self._graph.operand_names(node.name)):
            if name in self._left:
                self._left[name] -= 1
                if not self._left[name] and self._engine.drops_weights:
                    self._tensors.drop_weight(self._graph[name])
            else:
                self._release(name, 1)

    def _release(self, name: str, uses: int) -> None:
        value = self._values[name]
        value.uses -= uses
        if not value.uses:
            self._tensors.free(value)


def _label(node: Node) -> str:
    return f"%{node.name}" if node.stage is None else Place(0, node.layer, node.stage).label
