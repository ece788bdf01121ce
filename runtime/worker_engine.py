"""Runs some layers of a model in a worker of an executor, which reads their weights itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from aprgraph.graph.calling_convention import STATISTICS_CHUNK
from aprgraph.graph.errors import ExecutorError
from aprgraph.graph.ir import Graph
from aprgraph.runtime.engine import Choices, OnTap, Received
from aprgraph.runtime.executors.workers import NotOnThisMachineError, Worker, WorkerLostError
from aprgraph.runtime.kernel_values import statistics_from_rows
from aprgraph.runtime.split_worker import PartCode, begin_pass, next_taps, open_part, summarise_piece
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics
from aprgraph.runtime.tvm_session import CHUNKS_AT_ONCE

_Result = TypeVar("_Result")


class WorkerEngine:
    """Runs the graphs of ``code`` in ``worker`` (see ``PartEngine``); ``keys`` are the ids of the graphs that ``run`` is given, in order.

    ``what`` says which layers they are, for messages. Raises ExecutorError, here and in each method.
    """

    write_files = None  # the worker goes on

    def __init__(self, worker: Worker, what: str, code: PartCode, keys: Sequence[int], target_name: str) -> None:
        self._worker, self._what, self.target_name = worker, what, target_name
        self._graphs: Mapping[int, tuple[int, Graph]] = {key: (number, code.graphs[number]) for number, key in enumerate(keys)}
        self._call(open_part, code)

    def run(
        self, graph: Graph, tokens: Sequence[int], start: int, on_tap: OnTap | None, received: Received | None = None
    ) -> dict[str, F32]:
        """See ``PartEngine.run``."""
        found = received or Received({}, Choices())
        number, part = self._graphs[id(graph)]
        self._call(begin_pass, number, list(tokens), start, dict(found.values), on_tap is not None)
        left = None
        while left is None:
            taps, left = self._call(next_taps)
            for name, value, statistics in taps:
                assert on_tap is not None
                on_tap(part[name], value, statistics)
        outputs, choice = left
        if choice is not None:
            found.choices.note(part[choice[0]], choice[1])
        if received is None:
            found.choices.check()
        return outputs

    def summarise(self, values: F32) -> Statistics:
        """See ``Engine.summarise``; the tensor is sent to the worker for it, in pieces."""
        flat, step = values.reshape(-1), CHUNKS_AT_ONCE * STATISTICS_CHUNK
        rows = [self._call(summarise_piece, flat[start : start + step].copy()) for start in range(0, flat.size, step)]
        return statistics_from_rows(flat.size, np.concatenate(rows))

    def _call(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        try:
            result: _Result = self._worker.call(function, arguments, {})
        except (WorkerLostError, NotOnThisMachineError) as error:
            raise ExecutorError(f"{self._what}: {error}; run it again") from None
        return result
