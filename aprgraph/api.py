"""The public Python API, and what the command line is a shell around."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aprgraph.codegen.artifact import Artifact, cache_directory, compile_model
from aprgraph.codegen.artifact import open_artifact as _open_artifact
from aprgraph.graph.build import build_graph
from aprgraph.graph.errors import AprgraphError, ArtifactError, TokenError, TraceError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.metadata import Scalar
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.passes.pipeline import executed_graph, recorded_graph
from aprgraph.graph.plan import Plan, parse_plan
from aprgraph.graph.text import print_graph
from aprgraph.runtime.aprt import F32, MAX_ELEMENTS, file_size
from aprgraph.runtime.diff import diff
from aprgraph.runtime.statistics import Statistics
from aprgraph.runtime.tokens import check_tokens
from aprgraph.runtime.trace import Trace, TraceEntry, TraceInfo
from aprgraph.runtime.trace_writer import TraceWriter

__all__ = ["CompiledModel", "LoadedModel", "RunPlan", "diff", "load", "open_artifact"]

DEFAULT_PROMPT = "What is 2+2?"
MAX_THREADS = 1024

#: Called with each tensor as it is recorded.
OnEntry = Callable[[TraceEntry], None]


@dataclass(frozen=True)
class LoadedModel:
    """A GGUF model. ``graph`` is built when asked for."""

    model: Model

    @property
    def graph(self) -> Graph:
        """The computation graph."""
        return build_graph(self.model)

    def compile(self, target: str = "llvm", directory: str | Path | None = None, cpu: str | None = None) -> CompiledModel:
        """Compile into an artifact (default: ``<stem>.<target>.aprg`` in the current folder). Raises AprgraphError."""
        place = Path(directory) if directory is not None else None
        return CompiledModel(compile_model(self.model, target, place, cpu), self.model)

    def compile_cached(self, target: str = "llvm", cpu: str | None = None) -> CompiledModel:
        """The artifact of this model in the user's cache, compiled if it is not there. Raises AprgraphError."""
        return self.find_cached(target, cpu) or self.compile(target, cache_directory(self.model, target, cpu), cpu)

    def find_cached(self, target: str = "llvm", cpu: str | None = None) -> CompiledModel | None:
        """The artifact of this model in the user's cache, or None if it is not there or damaged. Raises AprgraphError."""
        place = cache_directory(self.model, target, cpu)
        try:
            return CompiledModel(_open_artifact(place), self.model)
        except ArtifactError:
            return None

    def encode(self, prompt: str) -> list[int]:
        """Token ids of ``prompt`` by the model's own tokenizer. Raises AprgraphError."""
        from aprgraph.runtime.tokenizer import load_tokenizer  # noqa: PLC0415

        return load_tokenizer(self.model.metadata).encode(prompt)

    def plan(self, plan: Plan, tokens: Sequence[int], positions: str = "last") -> RunPlan:
        """What ``CompiledModel.plan`` gives, before anything is compiled. Raises TokenError or PlanError."""
        return _plan_run(self.graph, self.model, plan, tokens, positions)


def load(path: str | Path, overrides: Mapping[str, Scalar | str] | None = None) -> LoadedModel:
    """Open a GGUF model, with metadata keys replaced by ``overrides``. Raises AprgraphError."""
    return LoadedModel(load_model(path, overrides))


def open_artifact(directory: str | Path, model: str | Path | None = None) -> CompiledModel:
    """Open an artifact and its model (at its recorded place, or at ``model``). Raises AprgraphError."""
    artifact = _open_artifact(directory)
    return CompiledModel(artifact, artifact.load_model(Path(model) if model is not None else None))


@dataclass(frozen=True)
class RunPlan:
    """A run that has been checked: the graph after its passes, and what it will record."""

    graph: Graph
    plan: Plan
    tokens: tuple[int, ...]
    positions: str

    @property
    def taps(self) -> list[Node]:
        """The tap nodes, in execution order."""
        return self.graph.with_op("tap")

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape that a node's tensor is recorded in: logits of one position have one dimension."""
        count = len(self.tokens)
        shape = node.type.bind(n=count, t=count)
        return shape[1:] if node.stage == "lm_head" and self.positions == "last" else shape

    @property
    def nbytes(self) -> int:
        """Bytes of the APRT files that the run writes. Raises TraceError if a tensor exceeds what one file can hold."""
        total = 0
        for node in self.taps:
            count = math.prod(self.shape(node))
            if count > MAX_ELEMENTS:
                where = node.stage if node.layer is None else f"layer {node.layer} {node.stage}"
                raise TraceError(f"{where} has {count} elements, more than the {MAX_ELEMENTS} of an APRT file; trace fewer positions")
            total += file_size(count)
        return total


@dataclass(frozen=True)
class CompiledModel:
    """A compiled model with its weights at hand.

    ``once`` promises that this process runs one plan and ends, as the command line does: TVM is then loaded without its
    compiler where that is not needed, which halves the time to start.
    """

    artifact: Artifact
    model: Model
    once: bool = False

    @property
    def default_trace_directory(self) -> Path:
        """``<model-stem>-trace`` beside the model."""
        return self.model.path.with_name(f"{self.model.path.stem}-trace")

    def encode(self, prompt: str) -> list[int]:
        """Token ids of ``prompt`` by the model's own tokenizer. Raises AprgraphError."""
        return LoadedModel(self.model).encode(prompt)

    def plan(self, plan: Plan, tokens: Sequence[int], positions: str = "last") -> RunPlan:
        """Check tokens and plan, and run the passes. Raises TokenError or PlanError."""
        return _plan_run(self.artifact.graph, self.model, plan, tokens, positions)

    def run(
        self,
        taps: str = "all",
        layers: str = "0..1",
        *,
        prompt: str | None = None,
        tokens: Sequence[int] | None = None,
        directory: str | Path | None = None,
        threads: int | None = None,
        positions: str = "last",
        stats_only: bool = False,
        on_entry: OnEntry | None = None,
    ) -> Trace:
        """Run the model and record the tensors that ``taps`` and ``layers`` select (as on the command line).

        ``tokens`` or ``prompt`` (default "What is 2+2?") is the input; ``directory`` defaults to
        ``<model-stem>-trace`` beside the model. Raises AprgraphError.
        """
        plan = parse_plan(taps, layers)
        if prompt is not None and tokens is not None:
            raise TokenError("prompt and tokens exclude each other; give one of them")
        ids = tokens if tokens is not None else self.encode(prompt if prompt is not None else DEFAULT_PROMPT)
        run = self.plan(plan, ids, positions)
        place = Path(directory) if directory is not None else self.default_trace_directory
        return self.record(run, place, threads=threads, stats_only=stats_only, on_entry=on_entry)

    def record(
        self, run: RunPlan, directory: Path, *, threads: int | None = None, stats_only: bool = False, on_entry: OnEntry | None = None
    ) -> Trace:
        """Run what ``plan`` has checked and write the trace. Raises TraceError if the disk has not the room."""
        if not stats_only:
            check_room(directory, run.nbytes)
        writer = TraceWriter(directory, stats_only=stats_only)

        def on_tap(node: Node, value: F32, statistics: Statistics | None) -> None:
            assert node.stage is not None
            name = node.name.removeprefix("tap.")
            entry = writer.write(name, node.stage, node.layer, 0, value.reshape(run.shape(node)), statistics)
            if on_entry is not None:
                on_entry(entry)

        # Closed also when the run fails: an exception may keep this frame, and with it the lock, for as long as the process lives.
        with contextlib.closing(writer):
            self._execute(run, on_tap, threads)
            return writer.finish(self._trace_info(run))

    def _trace_info(self, run: RunPlan) -> TraceInfo:
        model = {
            "name": self.model.path.name,
            "architecture": self.model.family.architecture,
            "fingerprint": self.artifact.fingerprint,
            "overrides": dict(self.model.overrides),
        }
        return TraceInfo(
            model=model,
            target=self.artifact.target_name,
            tokens=run.tokens,
            plan=run.plan.describe(),
            positions=run.positions,
            graph_text=print_graph(run.graph),
        )

    def logits(self, tokens: Sequence[int], *, positions: str = "last", threads: int | None = None) -> F32:
        """The logits of the last position as f32 [V], or of all as [n, V], with nothing recorded. Raises AprgraphError."""
        run = self.plan(Plan(), tokens, positions)
        (value,) = self._execute(run, None, threads).values()
        return value.reshape(run.shape(run.graph[run.graph.outputs[0]]))

    def _execute(self, run: RunPlan, on_tap: Callable[[Node, F32, Statistics | None], None] | None, threads: int | None) -> dict[str, F32]:
        """Run the graph on this artifact's target; the outputs that are not taps, by name."""
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise AprgraphError(f"threads {threads}: expected 1 to {MAX_THREADS}")
        if self.artifact.target == "reference":
            return self._interpret(run, on_tap)
        # The program first: where it must be compiled, the session then shares the TVM that the compiler has loaded.
        graph = executed_graph(run.graph)
        program = self.artifact.program(graph)
        from aprgraph.runtime.session import Session  # noqa: PLC0415 -- imports TVM

        session = Session(self.artifact.library, program, graph, self.model, threads, runtime_alone=self.once)
        return session.run(run.tokens, on_tap)

    def _interpret(self, run: RunPlan, on_tap: Callable[[Node, F32, Statistics | None], None] | None) -> dict[str, F32]:
        from aprgraph.runtime.reference import run_reference  # noqa: PLC0415

        outputs: dict[str, F32] = {}
        for node, value in run_reference(run.graph, self.model, run.tokens):
            if node.op != "tap" and node.name not in run.graph.outputs:
                continue
            with np.errstate(over="ignore"):  # beyond float32 is Inf there
                narrow = value.astype(np.float32)
            if node.op != "tap":
                outputs[node.name] = narrow
            elif on_tap is not None:
                on_tap(node, narrow, None)
        return outputs


def _plan_run(graph: Graph, model: Model, plan: Plan, tokens: Sequence[int], positions: str) -> RunPlan:
    ids = check_tokens(tokens, model)
    if positions not in ("last", "all"):
        raise TokenError(f"positions {positions!r}: expected last or all")
    return RunPlan(recorded_graph(graph, plan, positions), plan, ids, positions)


def check_room(directory: Path, nbytes: int) -> None:
    """Raise TraceError unless the disk that ``directory`` lies on, or will lie on, has ``nbytes`` and a little more."""
    place = directory.absolute()
    while not os.path.exists(place):  # noqa: PTH110 -- Path.exists raises for a name that is too long, or a folder that is closed to us
        place = place.parent
    free = shutil.disk_usage(place).free
    if nbytes + (1 << 20) > free:
        raise TraceError(
            f"{directory}: the plan writes {nbytes:,} bytes, but only {free:,} are free there; "
            "tap fewer stages or layers, give another place with -o, or keep statistics alone with --stats-only"
        )
