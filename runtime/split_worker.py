"""What a worker does that runs some layers of a model: it holds their weights and states, and runs pass after pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.machine_code import MachineCode
from aprgraph.runtime.engine import Choices, Received
from aprgraph.runtime.model_place import ModelPlace
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics
from aprgraph.runtime.tvm_session import Session

#: Tensors that wait to be asked for, and the bytes of those that are handed over at once.
_WAITING, _AT_ONCE = 4, 16 << 20
#: A tap that came: the name of its node, its value and its statistics.
Tap = tuple[str, F32, Statistics]
#: What a pass leaves: its outputs by name, and the node and the position of the first choice that could not be made.
Left = tuple[dict[str, F32], tuple[str, int] | None]


@dataclass(frozen=True)
class PartCode:
    """Some layers of a model: ``kernels``, and for each graph of a run the ``graphs`` of these layers with their ``programs``.

    The weights are read from ``model``. ``capacity`` is the number of rows of states that grow; ``threads`` None are the worker's own.
    """

    kernels: MachineCode
    graphs: tuple[Graph, ...]
    programs: tuple[bytes, ...]
    model: ModelPlace
    capacity: int
    threads: int | None


class _Part:
    """The part of this process. Passes run in one thread of their own, for TVM has a pool of threads for each that calls it."""

    def __init__(self, code: PartCode) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._graphs = code.graphs
        self._running: Future[Left]
        self._came: Queue[Tap | None]
        self._thread.submit(self._open, code).result()

    def _open(self, code: PartCode) -> None:
        self._session = Session(code.kernels, code.model.open(), code.threads, capacity=code.capacity)
        self._programs = [self._session.load(program, graph) for program, graph in zip(code.programs, code.graphs, strict=True)]

    def begin(self, number: int, tokens: Sequence[int], start: int, values: Mapping[str, F32], records: bool) -> None:
        """Begin a pass; see ``begin_pass``."""
        came: Queue[Tap | None] = Queue(_WAITING)
        self._came = came
        self._running = self._thread.submit(self._run, number, tokens, start, values, came if records else None)
        self._running.add_done_callback(lambda _: came.put(None))

    def _run(self, number: int, tokens: Sequence[int], start: int, values: Mapping[str, F32], came: Queue[Tap | None] | None) -> Left:
        def put(node: Node, value: F32, statistics: Statistics) -> None:
            assert came is not None
            came.put((node.name, value.copy(), statistics))

        choices = Choices()
        outputs = self._programs[number].run(tokens, None if came is None else put, start, Received(values, choices))
        return outputs, None if choices.first is None else (choices.first[0].name, choices.first[1])

    def taps(self) -> tuple[list[Tap], Left | None]:
        """See ``next_taps``."""
        found: list[Tap] = []
        nbytes = 0
        while nbytes < _AT_ONCE:
            try:
                tap = self._came.get(block=not found)
            except Empty:
                break
            if tap is None:
                return found, self._running.result()
            found.append(tap)
            nbytes += tap[1].nbytes
        return found, None

    def summarise(self, values: F32) -> npt.NDArray[np.float64]:
        """See ``summarise_piece``; in the thread that asks, for the one of the passes may wait until its tensors are asked for."""
        return self._session.summary_rows(values)


_open: list[_Part] = []


def open_part(code: PartCode) -> None:
    """Load a part, in place of the one that there was. Raises NotOnThisMachineError without the model, and ArtifactError."""
    _open[:] = [_Part(code)]


def _part() -> _Part:
    if not _open:
        raise AprgraphError("the worker that held these layers is gone, and with it what it had computed; run it again")
    return _open[0]


def begin_pass(number: int, tokens: Sequence[int], start: int, values: Mapping[str, F32], records: bool) -> None:
    """Run graph ``number`` on ``tokens`` at positions start, start + 1, …, and on ``values`` that others computed; see ``next_taps``."""
    _part().begin(number, tokens, start, values, records)


def next_taps() -> tuple[list[Tap], Left | None]:
    """The next tensors of the pass that was begun, and what it leaves if they are the last. Raises what the pass raises."""
    return _part().taps()


def summarise_piece(values: F32) -> npt.NDArray[Any]:
    """What the statistics kernel says of a tensor."""
    return _part().summarise(values)
