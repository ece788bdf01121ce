"""Comparing and auditing traces, with the model at hand or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from aprgraph.graph.arguments import MODEL, MODEL_A, MODEL_B, Argument
from aprgraph.graph.errors import ComparisonError
from aprgraph.progress import progress_line
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.diff import diff as _diff
from aprgraph.runtime.diff.sources import open_audited, open_foreign_sides, open_pair, open_source

if TYPE_CHECKING:  # two traces are compared without what loads, compiles and replays a model
    from aprgraph.api import CompiledModel, LoadedModel
    from aprgraph.graph.metadata import Scalar
    from aprgraph.graph.model import Model
    from aprgraph.runtime.blame import Audit, LocalError
    from aprgraph.runtime.blame.suggest import Suspicion
    from aprgraph.runtime.diff.side_names import SideNames
    from aprgraph.runtime.diff.sources import Source
    from aprgraph.runtime.executors.workers import WorkersExecutor
    from aprgraph.runtime.trace.names import NameRules
    from aprgraph.runtime.trace.reader import Trace

#: Called before each tensor with what it is called.
OnTensor = Callable[[str], None]
#: Called before each tensor: how many are done, of how many, and what this one is called.
OnProgress = Callable[[int, int, str], None]
#: What may stand for a model: a file, what ``aprgraph.load`` gave, or a compiled model.
ModelSource: TypeAlias = "str | Path | Model | LoadedModel | CompiledModel"


def diff(
    a: Source,
    b: Source,
    *,
    model: ModelSource | None = None,
    model_a: ModelSource | None = None,
    model_b: ModelSource | None = None,
    tokens: Sequence[int] | None = None,
    top: int = 10,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    names: NameRules = (),
    called: SideNames | None = None,
    progress: OnProgress | bool | None = None,
    on_replay: OnTensor | None = None,
    workers: int | None = None,
    executor: str | None = None,
) -> Comparison:
    """Compare two traces, and with ``model`` (that both are to be runs of) say which side is wrong.

    A side is a path, an open Trace, or a dict of arrays (of NumPy, torch or another library) under the names that ``Trace.write`` takes,
    with the prompt's ids under ``"tokens"``, where they are known. ``names`` are rules for arrays that are called otherwise, as of
    ``Trace.open``, a mapping of their expressions to places, or the path of a file of rules.

    ``model_a`` and ``model_b`` are the models of one side each, in place of ``model``: two files of one model, such as a
    checkpoint and its quantised GGUF file. Each side is then replayed by its own, and what the weights of the two make the
    sides differ by stands in ``blame.other_weights``.
    ``tokens`` are those of the prompt, for traces that do not name them. ``top`` is the K of the top-K overlap of logits; ``profile`` names
    a column of the tolerance table (default: as the manifests say) and ``tolerances`` set limits for some stages, such as
    ``"ffn_.*=nmse:1e-6"`` (docs/tolerances.md). ``called`` is what sentences call the sides (default: by their paths).

    Where somebody watches, in a terminal or a notebook, a line says which tensor it is at; ``progress`` False shows nothing, and
    functions are called in its place: ``progress`` before each tensor, ``on_replay`` after each that was replayed.

    ``workers`` is in how many processes a model is replayed (default: in this one), and ``executor`` where they are, such as "ray"
    (default: on this machine; docs/many-machines.md); results do not depend on either.

    The report's ``headline`` is the sentence to read first. Raises AprgraphError for what cannot
    be compared or read.
    """
    a, b = open_pair(*open_foreign_sides([a, b], names))
    with progress_line(_is_shown(progress), "comparing") as say:

        def on_tensor(done: int, total: int, label: str) -> None:
            say(f"{done} of {total}, {label}")

        report = _diff(a, b, top=top, profile=profile, tolerances=tolerances, progress=progress if callable(progress) else on_tensor)
    found = Comparison.of(replace(report, called=called))
    models = load_models_of(a, b, *map(_model_or_path, (model, model_a, model_b)))
    if models is None:
        if tokens is not None:
            raise ComparisonError("tokens are for the replay of a model; give the model too")
        if workers is not None or executor is not None:
            raise ComparisonError("workers are for the replay of a model; give the model too")
        return found
    from aprgraph.runtime.comparison.with_blame import with_blame  # noqa: PLC0415

    ours, theirs = models
    given: dict[str, Any] = {"tokens": tokens, "profile": profile, "tolerances": tolerances, "top": top}
    with progress_line(_is_shown(progress), "replaying in float64") as say, workers_or_none(workers, executor) as where:
        return with_blame(found, a, b, ours, model_b=theirs, progress=on_replay or say, executor=where, **given)


def audit(
    trace: Source,
    model: ModelSource,
    *,
    tokens: Sequence[int] | None = None,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    arithmetic: str | None = None,
    names: NameRules = (),
    progress: OnTensor | bool | None = None,
    workers: int | None = None,
    executor: str | None = None,
) -> Audit:
    """Replay each stage of one trace in float64 from the inputs that it recorded: where is it wrong? See ``Audit``.

    ``trace``, ``names``, ``tokens``, ``profile``, ``tolerances``, ``workers`` and ``executor`` are as of ``diff``.
    ``arithmetic`` is that of the engine which wrote it, such as "ggml-avx2", or "find" (default: what the
    manifest names; where nothing says how the trace was computed, "find").
    Where somebody watches, a line says which tensor was replayed last; ``progress`` False shows nothing, a function is called with it.

    Raises AprgraphError for what cannot be read or is no run of the model.
    """
    from aprgraph.runtime.blame import audit as _audit  # noqa: PLC0415

    opened = open_audited(trace, names, model)
    loaded = load_model_of([opened], _model_or_path(model))
    with progress_line(_is_shown(progress), "replaying in float64") as say, workers_or_none(workers, executor) as where:
        return _audit(
            opened,
            loaded,
            tokens=tokens,
            profile=profile,
            tolerances=tolerances,
            arithmetic=arithmetic,
            progress=progress if callable(progress) else say,
            executor=where,
        )


def workers_or_none(workers: int | None, executor: str | None) -> AbstractContextManager[WorkersExecutor | None]:
    """An executor of so many processes, as long as the block lasts; None where none are asked for. Raises ExecutorError."""
    if workers is None and executor is None:
        return nullcontext()
    from aprgraph.runtime.executors import open_executor  # noqa: PLC0415

    return open_executor(executor or "local", workers)


def _is_shown(progress: Callable[..., None] | bool | None) -> bool | None:
    """Whether a line is to be shown, None where that is as somebody watches: not beside a function of the caller's."""
    return False if callable(progress) else progress


def _model_or_path(model: Any) -> Any:
    """What ``load_model_of`` takes."""
    if model is None or isinstance(model, str | Path):
        return model
    from aprgraph.api import CompiledModel, LoadedModel  # noqa: PLC0415

    return model.model if isinstance(model, LoadedModel | CompiledModel) else model


def load_model_of(
    traces: Sequence[Source], model: str | Path | Model, overrides: Mapping[str, Scalar | str] | None = None, ignore: Sequence[str] = ()
) -> Model:
    """The model that ``traces`` are to be runs of, for a replay.

    Where its family is not known, the graph is the one that the traces hold. Raises what ``load_model`` does, and
    ComparisonError for traces that hold different graphs.
    """
    from aprgraph.graph.model import Model, load_model  # noqa: PLC0415
    from aprgraph.runtime.blame.graph_of_traces import graph_of_traces  # noqa: PLC0415

    if isinstance(model, Model):
        return model
    return load_model(model, overrides, ignore, lambda architecture: graph_of_traces([*map(open_source, traces)], architecture))


def load_models_of(
    a: Source,
    b: Source,
    model: str | Path | Model | None,
    model_a: str | Path | Model | None,
    model_b: str | Path | Model | None,
    overrides: Mapping[str, Scalar | str] | None = None,
    ignore: Sequence[str] = (),
    own_overrides: tuple[Mapping[str, Scalar | str], Mapping[str, Scalar | str]] = ({}, {}),
) -> tuple[Model, Model] | None:
    """The models of the two sides, one object where they are one; None where none is named.

    ``model`` is that of a side whose own is not named. ``own_overrides`` are those of one side each, over which
    go those of both. Raises what ``load_model_of`` does, and ComparisonError where one
    side alone has a model.
    """
    ours, theirs = (model if own is None else own for own in (model_a, model_b))
    if ours is None and theirs is None:
        return None
    if ours is None or theirs is None:
        named, lacking = (MODEL_A, MODEL_B) if theirs is None else (MODEL_B, MODEL_A)
        raise ComparisonError("", named, " names the model of one side; name the other's with ", lacking, ", or that of both with ", MODEL)
    of_a, of_b = ({**own, **(overrides or {})} for own in own_overrides)
    if ours == theirs and of_a == of_b:
        both = load_model_of([a, b], ours, of_a, ignore)
        return both, both
    return load_model_of([a], ours, of_a, ignore), load_model_of([b], theirs, of_b, ignore)


@dataclass(frozen=True)
class Guilty:
    """The stage to look at: ``local`` is its error, ``trace`` the one that recorded it, held to ``profile``; ``side``
    is what sentences call that trace, None of an audit, and ``is_b`` says that it is B's.
    """

    local: LocalError
    trace: Trace
    profile: str
    side: str | None = None
    is_b: bool = False


def guilty_of_diff(report: Comparison, a: Trace, b: Trace) -> Guilty | None:
    """The first stage that a replay found a side to be wrong at; None where there is none."""
    from aprgraph.runtime.blame.suggest import guilty_of  # noqa: PLC0415

    guilty = None if report.blame is None else guilty_of(report.blame)
    if report.blame is None or guilty is None:
        return None
    side, local = guilty
    trace, found = (a, report.blame.a) if side == "A" else (b, report.blame.b)
    return Guilty(local, found.as_read or trace, found.profile, report.names.of(side), is_b=side == "B")


def guilty_of_audit(found: Audit, trace: Trace) -> Guilty | None:
    """The first stage that is wrong; None where there is none."""
    return Guilty(found.wrong[0], found.as_read or trace, found.profile) if found.wrong else None


def suggested_arguments(report: Comparison, recorded: Sequence[Trace]) -> tuple[Argument, ...] | None:
    """What to give a run that narrows a comparison down; None where nothing does."""
    from aprgraph.runtime.blame.suggest import suspicion_of  # noqa: PLC0415

    suspicion = suspicion_of(report, report.blame)
    return None if suspicion is None else _arguments(suspicion, recorded)


def suggested_arguments_of(found: Audit, trace: Trace) -> tuple[Argument, ...] | None:
    """The same, of an audit."""
    from aprgraph.runtime.blame.suggest import Suspicion  # noqa: PLC0415

    if not found.wrong:
        return None
    first = found.wrong[0]
    return _arguments(Suspicion(first.key, first.inside, first.sources), [trace])


def _arguments(suspicion: Suspicion, traces: Sequence[Trace]) -> tuple[Argument, ...] | None:
    from aprgraph.runtime.blame.suggest import arguments_for, suggest  # noqa: PLC0415

    recorded = set.intersection(*({entry.key for entry in trace.entries} for trace in traces))
    plan = suggest(suspicion, recorded)
    return None if plan is None else arguments_for(plan, suspicion.key.step)
