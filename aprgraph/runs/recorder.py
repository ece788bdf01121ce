"""Between the taps of a run and the files of its trace."""

from __future__ import annotations

from collections.abc import Callable

from aprgraph.graph.ir import Node
from aprgraph.runs.plan import PromptPart, RunPlan
from aprgraph.runtime.engine import Engine
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.partial_tensor import PartialTensor
from aprgraph.runtime.trace.statistics import Statistics
from aprgraph.runtime.trace.writer import TraceWriter

#: Called with each tensor as it is recorded.
OnEntry = Callable[[TraceEntry], None]


class Recorder:
    """Hands the tensors of an engine to a writer as they appear; those of a prompt that runs in parts are put together first.

    ``on_entry`` is told of each; with ``when_written`` its file is there by then, without it may still be on its way.
    """

    def __init__(
        self,
        run: RunPlan,
        writer: TraceWriter,
        engine: Engine,
        on_entry: OnEntry | None,
        *,
        when_written: bool = False,
    ) -> None:
        self._run, self._writer, self._summarise = run, writer, engine.summarise
        if engine.write_files is not None:
            writer.write_values_that_stay(engine.write_files)
        self._on_entry, self._when_written = on_entry, when_written
        self._partial: dict[str, PartialTensor] = {}

    def __call__(self, step: int, part: PromptPart | None, node: Node, value: F32, statistics: Statistics) -> None:
        """Record ``value``, unless it is that of a part of the prompt whose last position is asked for, and not there."""
        assert node.stage is not None
        name = node.name.removeprefix("tap.")
        if part is None or len(self._run.parts) == 1 or "n" not in node.type.dims:
            shape = self._run.recorded_shape(node, value.shape, step)
            entry = self._writer.write(name, node.stage, node.layer, step, value.reshape(shape), statistics)
        else:
            if part.start == 0:
                self._partial[name] = self._writer.reserve(node.stage, node.layer, step, self._run.shape(node, step))
            partial = self._partial[name]
            partial.put(value, node.type.dims.index("n"), part.start)
            if not part.is_last:
                return
            entry = self._writer.write_partial(name, node.stage, node.layer, step, self._partial.pop(name), self._summarise)
        if self._on_entry is not None:
            if self._when_written:
                self._writer.wait()
            self._on_entry(entry)
