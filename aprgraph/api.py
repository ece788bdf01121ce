"""The public Python API, and what the command line is a shell around."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aprgraph.codegen.artifact import Artifact, check_identity, read_artifact
from aprgraph.codegen.artifact import open_artifact as _open_artifact
from aprgraph.codegen.cache.artifacts import OnNotice, compile_artifact, compile_into_cache, find_beside, find_in_cache
from aprgraph.codegen.trust.artifacts import trust_artifact
from aprgraph.graph.arguments import SPLIT, STEPS
from aprgraph.graph.arithmetics import PLAIN
from aprgraph.graph.errors import NonFiniteError, TokenError, TraceError
from aprgraph.graph.held_graph import FindHeld
from aprgraph.graph.ir import Graph
from aprgraph.graph.layer_split import LayerRange, parse_split, split_of_model
from aprgraph.graph.metadata import Scalar
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes.insert_taps import stages_in
from aprgraph.graph.shown import Shown
from aprgraph.graph.sources.whole_digest import whole_digest
from aprgraph.graph.tap_plan import Plan, parse_plan, parse_steps
from aprgraph.graph.text import print_graph
from aprgraph.option_words import in_option_words
from aprgraph.progress import progress_line
from aprgraph.runs.arithmetic import arithmetic_of_run, described_arithmetic
from aprgraph.runs.default_place import default_trace_directory
from aprgraph.runs.execute import OnToken, Outcome, execute
from aprgraph.runs.open_engine import LOCAL, check_remote, check_split, open_engine
from aprgraph.runs.plan import RunOptions, RunPlan, check_room, gives_logits, plan_run
from aprgraph.runs.recorder import OnEntry, Recorder
from aprgraph.runtime.prompts import encode_chat, encode_prompt, end_tokens_of
from aprgraph.runtime.readings.row_order import order_of_graph
from aprgraph.runtime.remote.address import RemoteAddress, parse_remote
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import QK_ROWS, TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter

__all__ = ["CompiledModel", "LoadedModel", "RunOptions", "RunPlan", "check_room", "load", "open_artifact", "trust"]

DEFAULT_PROMPT = "What is 2+2?"
DEFAULT_OPTIONS = RunOptions()


def warn(notice: str) -> None:
    """A notice as a warning of the call that gave rise to it."""
    warnings.warn(notice, stacklevel=3)


@dataclass(frozen=True)
class LoadedModel(Shown):
    """A model file, understood. ``graph`` is built when asked for."""

    model: Model

    def __repr__(self) -> str:
        return f"<LoadedModel of {self.model!r}>"

    @property
    def graph(self) -> Graph:
        """The computation graph."""
        return build_graph(self.model)

    def compile(
        self,
        target: str = "llvm",
        directory: str | Path | None = None,
        cpu: str | None = None,
        architectures: Sequence[str] = (),
        *,
        arithmetic: str = PLAIN,
        on_notice: OnNotice = warn,
        progress: bool | None = None,
    ) -> CompiledModel:
        """Compile into an artifact (default: ``<stem>.<target>.aprg`` in the current folder). Raises AprgraphError.

        ``cpu``, ``architectures`` and ``arithmetic`` are what --cpu, --arch and --arithmetic are on the command line. ``on_notice`` is
        told where no later process will know that this user compiled it (default: a warning). Where somebody watches, in a terminal
        or a notebook, a line says what it does; ``progress`` False shows nothing.
        """
        place = Path(directory) if directory is not None else None
        with progress_line(progress, self._compiling(target)):
            made = compile_artifact(self.model, target, place, cpu, architectures, arithmetic, on_notice=on_notice)
        return CompiledModel(made, self.model)

    def compile_cached(
        self,
        target: str = "llvm",
        cpu: str | None = None,
        *,
        on_notice: OnNotice = warn,
        arithmetic: str = PLAIN,
        progress: bool | None = None,
    ) -> CompiledModel:
        """The artifact of this model beside it or in the user's cache, compiled into that if there is none.

        Where the cache cannot be written, the artifact lasts as long as this process; ``on_notice`` is told so (default: a warning).
        ``progress`` is as of ``compile``. Raises AprgraphError.
        """
        found = find_beside(self.model, target, cpu, on_notice, arithmetic) or find_in_cache(self.model, target, cpu, arithmetic)
        if found is None:
            with progress_line(progress, self._compiling(target)):
                found = compile_into_cache(self.model, target, cpu, on_notice, arithmetic)
        return CompiledModel(found, self.model)

    def _compiling(self, target: str) -> str:
        return f"compiling {self.model.path.name} for {target}"

    def find_cached(self, target: str = "llvm", cpu: str | None = None, *, arithmetic: str = PLAIN) -> CompiledModel | None:
        """The artifact of this model beside it (``<stem>.<target>.aprg``) or in the user's cache; None if there is none.

        One beside it counts if it has the same content, overrides, CPU, arithmetic and versions, and was compiled by this user.
        Raises AprgraphError.
        """
        found = find_beside(self.model, target, cpu, arithmetic=arithmetic) or find_in_cache(self.model, target, cpu, arithmetic)
        return None if found is None else CompiledModel(found, self.model)

    @property
    def default_trace_directory(self) -> Path:
        """``<model-stem>-trace`` beside the model; in the current folder for a model in an installed package or a cache."""
        return default_trace_directory(self.model.path, self.model.stem)

    def encode(self, prompt: str, *, affixes: bool = True) -> list[int]:
        """Token ids of ``prompt`` by the model's own tokenizer; without BOS and EOS if ``affixes`` is False, as `apr trace`
        has them. Raises AprgraphError.
        """
        return encode_prompt(self.model, prompt, affixes=affixes)

    def encode_chat(self, prompt: str, system: str | None = None) -> list[int]:
        """Token ids of a chat that ``prompt`` begins, by the model's own template. Raises AprgraphError."""
        return encode_chat(self.model, prompt, system)

    def plan(self, plan: Plan, tokens: Sequence[int], options: RunOptions = DEFAULT_OPTIONS) -> RunPlan:
        """What ``CompiledModel.plan`` gives, before anything is compiled. Raises TokenError or PlanError."""
        return plan_run(self.graph, self.model, plan, tokens, options)


def load(
    path: str | Path,
    overrides: Mapping[str, Scalar | str] | None = None,
    ignore: Sequence[str] = (),
    find_held: FindHeld | None = None,
) -> LoadedModel:
    """Open a model (a GGUF file or a Hugging Face checkpoint), with metadata keys replaced by ``overrides``. Raises AprgraphError.

    ``ignore`` is what --ignore is on the command line, ``find_held`` what it is of ``load_model``. What is to be known of
    the file stands in ``.model.notices``.
    """
    return LoadedModel(load_model(path, overrides, ignore, find_held))


def open_artifact(directory: str | Path, model: str | Path | None = None, *, elsewhere: bool = False) -> CompiledModel:
    """Open an artifact and its model (at its recorded place, or at ``model``). Raises AprgraphError.

    It may be for another machine's CPU if it is to run ``elsewhere``: see ``CompiledModel.on``. One with machine code that this user
    did not compile has to be trusted first: see ``trust``.
    """
    artifact = _open_artifact(directory, elsewhere=elsewhere)
    return CompiledModel(artifact, artifact.load_model(Path(model) if model is not None else None))


def trust(directory: str | Path, identity: str | None = None) -> str:
    """Let the machine code of an artifact that somebody else compiled run here, from now on, for this user.

    Whoever compiled it can then do what this user can do. With ``identity``, the SHA-256 digest of its artifact.json, only the
    artifact that has it is trusted. Returns the identity. Raises ArtifactError.
    """
    artifact = read_artifact(directory)
    if identity is not None:
        check_identity(artifact, identity)
    trust_artifact(artifact.directory, artifact.identity)
    return artifact.identity


@dataclass(frozen=True)
class CompiledModel(Shown):
    """A compiled model with its weights at hand.

    ``remote`` is the TVM RPC server that runs it: see ``on``. ``split`` says which layers run where, and ``executor`` who runs
    those without a server: see ``across``. ``gpu`` is the
    number of the GPU that a CUDA artifact runs on.
    """

    artifact: Artifact
    model: Model
    remote: RemoteAddress | None = None
    gpu: int = 0
    split: tuple[LayerRange, ...] = ()
    executor: str = LOCAL

    def __repr__(self) -> str:
        return f"<CompiledModel of {self.model!r}, for {self.artifact.target_name}>"

    def on(self, rpc: str) -> CompiledModel:
        """The same, to be run on the TVM RPC server ``rpc``, HOST:PORT[/KEY] (docs/remote.md). Raises RemoteError or ArtifactError."""
        check_remote(self.artifact)
        return replace(self, remote=parse_remote(rpc), split=())

    def across(self, split: str, executor: str | None = None) -> CompiledModel:
        """The same, to be run on several TVM RPC servers, each with some of the layers: ``0..16@one:9090,16..32@two:9090``.

        Without servers, as in ``0..16,16..32``, each range is run by a worker of the ``executor`` (default: "local", processes on this
        machine). Each layer is in one range, the embedding belongs to the first, and what comes after the layers to the last
        (docs/many-machines.md). Raises PlanError, RemoteError, ExecutorError or ArtifactError.
        """
        check_remote(self.artifact, SPLIT)
        ranges = split_of_model(parse_split(split), self.model.family.layers)
        check_split(ranges, executor, self.artifact.target)
        return replace(self, remote=None, split=ranges, executor=executor or LOCAL)

    @property
    def default_trace_directory(self) -> Path:
        """See ``LoadedModel.default_trace_directory``."""
        return LoadedModel(self.model).default_trace_directory

    def encode(self, prompt: str, *, affixes: bool = True) -> list[int]:
        """See ``LoadedModel.encode``."""
        return LoadedModel(self.model).encode(prompt, affixes=affixes)

    def encode_chat(self, prompt: str, system: str | None = None) -> list[int]:
        """Token ids of a chat that ``prompt`` begins, by the model's own template. Raises AprgraphError."""
        return LoadedModel(self.model).encode_chat(prompt, system)

    def plan(self, plan: Plan, tokens: Sequence[int], options: RunOptions = DEFAULT_OPTIONS) -> RunPlan:
        """Check tokens and plan, and run the passes. Raises TokenError or PlanError.

        Without an arithmetic among the options the run is in that of the artifact.
        """
        arithmetic = arithmetic_of_run(options.arithmetic, self.artifact)
        return plan_run(self.artifact.graph, self.model, plan, tokens, replace(options, arithmetic=arithmetic))

    def run(
        self,
        taps: str | Sequence[str] = "all",
        layers: str | int | range = "0..1",
        *,
        prompt: str | None = None,
        tokens: Sequence[int] | None = None,
        directory: str | Path | None = None,
        threads: int | None = None,
        positions: str = "last",
        max_tokens: int = 0,
        steps: str | int | range = "0..1",
        prefill_chunk: int | None = None,
        arithmetic: str | None = None,
        fingerprint: str = "sampled",
        stats_only: bool = False,
        force: bool = False,
        on_entry: OnEntry | None = None,
        progress: bool | None = None,
    ) -> Trace:
        """Run the model and record the tensors that ``taps``, ``layers`` and ``steps`` select (as on the command line;
        stages also one by one, and numbers as such or as a range).

        ``tokens`` or ``prompt`` (default "What is 2+2?") is the input; ``directory`` defaults to
        ``default_trace_directory``. An earlier run's trace there is replaced whole; what else is there is written over
        only with ``force``. ``arithmetic`` is what --arithmetic is on the command line: the one that was compiled for, or, on the
        reference target, any. ``fingerprint`` "full" names every byte of the model file in the manifest, not samples of its weights
        alone. ``on_entry`` is called with each tensor's entry when its file is there; without it, where somebody watches, a line says
        which was recorded last, and ``progress`` False shows nothing. Raises AprgraphError.
        """
        plan = parse_plan(taps, layers, lambda: stages_in(self.artifact.graph))
        options = RunOptions(positions, max_tokens, parse_steps(steps), prefill_chunk, arithmetic, fingerprint)
        run = self.plan(plan, self._input(prompt, tokens), options)
        place = Path(directory) if directory is not None else self.default_trace_directory
        with progress_line(False if on_entry is not None else progress, f"running {self.model.path.name}") as say:
            told = on_entry or (lambda entry: say(entry.label))
            wait = on_entry is not None
            return self.record(run, place, threads=threads, stats_only=stats_only, force=force, on_entry=told, when_written=wait)

    def generate(
        self,
        max_tokens: int,
        *,
        prompt: str | None = None,
        tokens: Sequence[int] | None = None,
        threads: int | None = None,
        on_token: OnToken | None = None,
    ) -> tuple[int, ...]:
        """Generate up to ``max_tokens`` tokens, each the likeliest; the last may be an end token. Raises AprgraphError."""
        run = self.plan(Plan(), self._input(prompt, tokens), RunOptions(max_tokens=max_tokens))
        return self.execute(run, threads=threads, on_token=on_token).generated

    def _input(self, prompt: str | None, tokens: Sequence[int] | None) -> Sequence[int]:
        if prompt is not None and tokens is not None:
            raise TokenError("prompt and tokens exclude each other; give one of them")
        return tokens if tokens is not None else self.encode(prompt if prompt is not None else DEFAULT_PROMPT)

    def record(
        self,
        run: RunPlan,
        directory: Path,
        *,
        threads: int | None = None,
        stats_only: bool = False,
        force: bool = False,
        on_entry: OnEntry | None = None,
        on_token: OnToken | None = None,
        when_written: bool = False,
    ) -> Trace:
        """Run what ``plan`` has checked and write the trace. See Recorder for ``on_entry`` and ``when_written``.

        Raises TraceError, before anything is computed, if ``directory`` holds what is not replaced (see TraceWriter), or if the disk
        has not the room; later, if a text ended before the first step that was to be recorded; and NonFiniteError where no expert
        or token could be chosen. What was recorded until then is a whole trace.
        """
        writer = TraceWriter(directory, stats_only=stats_only, force=force)
        if not stats_only:
            check_room(directory, run.nbytes)
        # Closed also when the run fails: an exception may keep this frame, and with it the lock, for as long as the process lives.
        with contextlib.closing(writer), contextlib.ExitStack() as stack:
            engine = stack.enter_context(
                open_engine(
                    self.artifact, self.model, run, threads, remote=self.remote, gpu=self.gpu, split=self.split, executor=self.executor
                )
            )
            chosen: list[int] = []

            def keep(token: int) -> None:
                chosen.append(token)
                if on_token is not None:
                    on_token(token)

            failure = None
            recorder = Recorder(run, writer, engine, on_entry, when_written=when_written)
            try:
                execute(run, engine, recorder, self._end_tokens(run), keep)
            except NonFiniteError as error:
                failure = self._with_source(error)
            if not writer.entries:
                raise failure or TraceError(
                    f"{directory}: the text ended at step {len(chosen) - 1}, before step {run.options.steps.start}, the first of ",
                    STEPS,
                    ": nothing was recorded",
                )
            trace = writer.finish(self._trace_info(run, engine.target_name, chosen))
            if failure is not None:
                raise failure
            return trace

    def _trace_info(self, run: RunPlan, target_name: str, generated: Sequence[int]) -> TraceInfo:
        model = {
            "name": self.model.path.name,
            "architecture": self.model.family.architecture,
            "fingerprint": self.artifact.fingerprint,
            **({"digest": whole_digest(self.model.file)} if run.options.fingerprint == "full" else {}),
            "file": self.model.file.kind,
            "overrides": dict(self.model.overrides),
            **({"ignore": list(self.model.ignore)} if self.model.ignore else {}),
        }
        return TraceInfo(
            model=model,
            target=target_name,
            tokens=run.tokens,
            plan=run.plan.describe(),
            positions=run.options.positions,
            graph_text=print_graph(run.graph),
            extra={
                **({"generated": list(generated)} if run.options.max_tokens else {}),
                **({QK_ROWS: rows} if (rows := order_of_graph(self.artifact.graph)) is not None else {}),
                **described_arithmetic(run.graph),
                # A manifest has the same bytes whoever runs, the command line or a Python program.
                **({"notes": [in_option_words(note) for note in run.notes]} if run.notes else {}),
            },
        )

    def logits(self, tokens: Sequence[int], *, positions: str = "last", threads: int | None = None) -> F32:
        """The logits of the last position as f32 [V], or of all as [n, V], with nothing recorded. Raises AprgraphError."""
        if not self.gives_logits:
            raise TokenError(f"{self.model.path} is an embedding model and gives no logits; use embedding()")
        return self.output_of(self.plan(Plan(), tokens, RunOptions(positions)), threads=threads)

    def embedding(self, prompt: str | None = None, *, tokens: Sequence[int] | None = None, threads: int | None = None) -> F32:
        """The embedding of a text, f32 [Y], of a model that gives one; of one without pooling, f32 [n, E]. Raises AprgraphError."""
        if self.gives_logits:
            raise TokenError(f"{self.model.path} gives logits and no embedding; use logits()")
        return self.output_of(self.plan(Plan(), self._input(prompt, tokens)), threads=threads)

    @property
    def gives_logits(self) -> bool:
        """Whether the model gives logits; one that does not gives embeddings."""
        return gives_logits(self.artifact.graph)

    def output_of(self, run: RunPlan, *, threads: int | None = None) -> F32:
        """The logits, or the embedding, of a run without taps and without generation: see ``logits`` and ``embedding``."""
        (value,) = self.execute(run, threads=threads).outputs.values()
        return value.reshape(run.shape(run.graph[run.graph.outputs[0]]))

    def execute(self, run: RunPlan, *, threads: int | None = None, on_token: OnToken | None = None) -> Outcome:
        """Run with nothing recorded. Raises AprgraphError."""
        with open_engine(
            self.artifact, self.model, run, threads, remote=self.remote, gpu=self.gpu, split=self.split, executor=self.executor
        ) as engine:
            try:
                return execute(run, engine, None, self._end_tokens(run), on_token)
            except NonFiniteError as error:
                raise self._with_source(error) from None

    def source_of_nan(self, node: str, known: Collection[str] = ()) -> str | None:
        """What in the model file makes the node ``node`` of the graph NaN or Inf, in words; None if it is no weight behind it.

        Weights are looked at back to the nodes ``known``. Raises ModelFileError.
        """
        from aprgraph.runtime.check.nonfinite import source_of_nan  # noqa: PLC0415 -- loads all rules of `aprgraph check`

        return source_of_nan(self.model.file, self.artifact.graph, node, known)

    def _with_source(self, error: NonFiniteError) -> NonFiniteError:
        source = self.source_of_nan(self.artifact.graph.outputs[-1])
        return error if source is None else NonFiniteError(error.message, "; ", source)

    def _end_tokens(self, run: RunPlan) -> frozenset[int]:
        return end_tokens_of(self.model) if run.options.max_tokens else frozenset()
