"""`aprgraph run`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aprgraph.cli.options import Json, Layers, Override
from aprgraph.cli.progress import progress_bar, spinner

if TYPE_CHECKING:
    from aprgraph.api import CompiledModel, LoadedModel, RunPlan
    from aprgraph.runtime.aprt import F32
    from aprgraph.runtime.trace import Trace


def run(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ARTIFACT|MODEL]",
            help="An artifact, or a GGUF file (compiled into a cache first) [the one artifact in this folder].",
            show_default=False,
        ),
    ] = None,
    taps: Annotated[
        str | None,
        typer.Option(
            "--taps",
            metavar="LIST|all",
            help="Stages to save, separated by commas; `aprgraph stages` lists them. "
            "Without it nothing is saved, and the next token is printed.",
        ),
    ] = None,
    layers: Layers = "0..1",
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="The input, tokenized by the model's own tokenizer [What is 2+2?]."),
    ] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", metavar="1,2,3", help="The input as token ids.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to write the trace [<model-stem>-trace beside the model]."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=1024, help="Threads; results do not depend on it [all processors].")
    ] = None,
    positions: Annotated[str, typer.Option("--positions", metavar="last|all", help="Positions whose logits lm_head holds.")] = "last",
    stats_only: Annotated[bool, typer.Option("--stats-only", help="Write the manifest with its statistics, and no tensors.")] = False,
    target: Annotated[str | None, typer.Option("--target", "-t", help="With a MODEL: llvm or reference [llvm].")] = None,
    model: Annotated[Path | None, typer.Option("--model", metavar="GGUF", help="With an ARTIFACT: where its model lies now.")] = None,
    override_kv: Override = None,
    json: Json = False,
) -> None:
    """Run a model on a prompt and dump the tensors that the plan selects.

    Each tensor becomes one APRT file, layer-<N>/<stage>.bin, beside a manifest trace.json. What the taps do not need is not
    computed, and its weights are not read.

    \b
    Example:
      aprgraph run model.gguf --taps qkv_matmul,attn_out --layers 0..2 --prompt "Hello"
    """
    from aprgraph.api import DEFAULT_PROMPT  # noqa: PLC0415
    from aprgraph.graph.errors import PlanError, TokenError  # noqa: PLC0415
    from aprgraph.graph.plan import parse_plan  # noqa: PLC0415
    from aprgraph.runtime.tokens import parse_tokens  # noqa: PLC0415

    plan = parse_plan(taps, layers)
    if plan.is_empty and (stats_only or output is not None):
        raise PlanError("nothing is saved without --taps; add --taps LIST or --taps all")
    if prompt is not None and tokens is not None:
        raise TokenError("--prompt and --tokens exclude each other; give one of them")
    if positions not in ("last", "all"):
        raise TokenError(f"--positions {positions!r}: expected last or all")
    ids = parse_tokens(tokens) if tokens is not None else None
    opened = _open(source, target, model, override_kv or [])
    if ids is None:
        ids = opened.encode(DEFAULT_PROMPT if prompt is None else prompt)
    run_plan = opened.plan(plan, ids, positions)
    compiled = replace(_compile(opened, target), once=True)
    if plan.is_empty:
        _report_next(compiled, run_plan, compiled.logits(run_plan.tokens, positions=positions, threads=threads), json)
        return
    directory = output or compiled.default_trace_directory
    trace = _record(compiled, run_plan, directory, threads, stats_only, quiet=json)
    _report_trace(compiled, trace, json)


def _open(source: Path | None, target: str | None, model: Path | None, override_kv: list[str]) -> CompiledModel | LoadedModel:
    """What the arguments name: an artifact, or a model, as the artifact that the cache has of it. Raises AprgraphError."""
    from aprgraph.api import load, open_artifact  # noqa: PLC0415
    from aprgraph.graph.errors import ArtifactError  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415

    overrides = parse_overrides(override_kv)
    chosen = source if source is not None else _only_artifact()
    if chosen.is_dir():
        compiled = open_artifact(chosen, model)
        if overrides:
            raise ArtifactError(
                f"{chosen}: --override-kv changes the graph, so it must be given to `aprgraph compile`, or to run with the MODEL"
            )
        if target is not None and target != compiled.artifact.target:
            raise ArtifactError(
                f"{chosen}: compiled for {compiled.artifact.target}, not for {target}; compile the model with --target {target}"
            )
        return compiled
    if model is not None:
        raise ArtifactError(f"{chosen}: --model goes with an artifact directory, and this is none")
    if not os.path.lexists(chosen):
        raise ArtifactError(f"{chosen}: not there; expected a GGUF file, or the directory of an artifact")
    loaded = load(chosen, overrides)
    return loaded.find_cached(target or "llvm") or loaded


def _compile(opened: CompiledModel | LoadedModel, target: str | None) -> CompiledModel:
    """Compiles what is not compiled yet; that takes seconds, so it comes after all else has been checked."""
    from aprgraph.api import CompiledModel  # noqa: PLC0415

    if isinstance(opened, CompiledModel):
        return opened
    with spinner(f"compiling {opened.model.path.name}"):
        return opened.compile_cached(target or "llvm")


def _only_artifact() -> Path:
    """The one artifact in this folder. Raises ArtifactError that names the candidates."""
    from aprgraph.codegen.artifact import SUFFIX  # noqa: PLC0415
    from aprgraph.graph.errors import ArtifactError  # noqa: PLC0415

    found = sorted(path for path in Path().glob(f"*{SUFFIX}") if path.is_dir())
    if len(found) == 1:
        return found[0]
    if found:
        raise ArtifactError(f"several artifacts in this folder: {', '.join(map(str, found))}; name one of them: aprgraph run {found[0]}")
    raise ArtifactError("no artifact in this folder; name one, or a model: aprgraph run model.gguf, or aprgraph compile model.gguf first")


def _record(compiled: CompiledModel, run_plan: RunPlan, directory: Path, threads: int | None, stats_only: bool, *, quiet: bool) -> Trace:
    from aprgraph.api import check_room  # noqa: PLC0415
    from aprgraph.cli.tables import format_bytes  # noqa: PLC0415

    count = len(run_plan.taps)
    tensors = "1 tensor" if count == 1 else f"{count} tensors"
    if stats_only:
        announcement = f"{tensors}, statistics only, in {directory}{os.sep}"
    else:
        announcement = f"{tensors}, {format_bytes(run_plan.nbytes)}, will be written to {directory}{os.sep}"
        check_room(directory, run_plan.nbytes)
    if not quiet:
        typer.echo(announcement)
    with progress_bar("tracing", count) as advance:
        return compiled.record(run_plan, directory, threads=threads, stats_only=stats_only, on_entry=lambda _entry: advance())


def _report_trace(compiled: CompiledModel, trace: Trace, json: bool) -> None:
    from aprgraph.cli.tables import format_number, format_table  # noqa: PLC0415

    bad = next((entry for entry in trace.entries if entry.statistics and not entry.statistics.is_finite), None)
    if json:
        _print_json(
            {
                "trace": str(trace.directory),
                "target": compiled.artifact.target_name,
                "tokens": list(trace.info.tokens) if trace.info else [],
                "first_nonfinite": None if bad is None else {"stage": bad.stage, "layer": bad.layer},
                "tensors": [
                    {
                        "stage": entry.stage,
                        "layer": entry.layer,
                        "shape": list(entry.shape),
                        "file": entry.file,
                        "statistics": entry.statistics.to_json() if entry.statistics else None,
                    }
                    for entry in trace.entries
                ],
            }
        )
        return
    rows = []
    for entry in trace.entries:
        statistics = entry.statistics
        assert statistics is not None
        rows.append(
            (
                entry.stage,
                "-" if entry.layer is None else str(entry.layer),
                "x".join(map(str, entry.shape)),
                *(format_number(value) for value in (statistics.min, statistics.max, statistics.mean, statistics.rms)),
                f"{statistics.nan}/{statistics.inf}",
                entry.file or "-",
            )
        )
    typer.echo(format_table(("stage", "layer", "shape", "min", "max", "mean", "rms", "NaN/Inf", "file"), rows, right=(1, 3, 4, 5, 6, 7)))
    if bad is not None and bad.statistics is not None:
        typer.echo(f"first NaN or Inf: {bad.label} ({bad.statistics.nan} NaN, {bad.statistics.inf} Inf of {bad.statistics.count})")


def _report_next(compiled: CompiledModel, run_plan: RunPlan, logits: F32, json: bool) -> None:
    """The next token of each position whose logits were asked for, the last one in words."""
    import numpy as np  # noqa: PLC0415

    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.runtime.tokenizer import load_tokenizer  # noqa: PLC0415

    rows = logits.reshape(-1, logits.shape[-1])
    first = len(run_plan.tokens) - len(rows)
    best = rows.argmax(axis=1)
    try:
        tokenizer = load_tokenizer(compiled.model.metadata)
        texts: list[str | None] = [tokenizer.decode([int(token)]) for token in best]
    except AprgraphError:  # a model may be run by token ids without a tokenizer that is known here
        texts = [None] * len(rows)
    highest = [float(value) if np.isfinite(value) else None for value in rows[np.arange(len(rows)), best]]
    predictions = [{"position": first + i, "token": int(token), "logit": highest[i], "text": texts[i]} for i, token in enumerate(best)]
    if json:
        _print_json({"tokens": list(run_plan.tokens), "target": compiled.artifact.target_name, "next": predictions})
        return
    for item in predictions:
        where = f"position {item['position']}: " if len(predictions) > 1 else ""
        text = "" if item["text"] is None else f" {item['text']!r}"
        logit = "not finite" if item["logit"] is None else f"{item['logit']:.6g}"
        typer.echo(f"{where}next token {item['token']}{text}, logit {logit}")


def _print_json(document: dict[str, Any]) -> None:
    import json as json_module  # noqa: PLC0415

    typer.echo(json_module.dumps(document, indent=1, allow_nan=False))
