"""`aprgraph run`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.input import encode, read_input
from aprgraph.cli.notices import print_notice, print_notices
from aprgraph.cli.options import Families, Force, Ignore, Json, Layers, Override
from aprgraph.cli.places import written_by
from aprgraph.cli.progress import progress_bar, spinner

if TYPE_CHECKING:
    from aprgraph.api import CompiledModel, LoadedModel, RunPlan
    from aprgraph.cli.generated_text import GeneratedText
    from aprgraph.runtime.trace.reader import Trace

_HELP = "The input, tokenized by the model's own tokenizer [What is 2+2?]."


def run(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ARTIFACT|MODEL]",
            help="An artifact, or a GGUF file (run by its artifact beside it, or compiled into a cache first) [the one artifact here].",
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
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", metavar="TEXT", help=_HELP)] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", "-f", metavar="FILE", help="The input from a file; - is standard input.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the input through the model's own chat template.")] = False,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="With --chat: the system message.")] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", metavar="1,2,3,…", help="The input as token ids.")] = None,
    tokens_file: Annotated[
        Path | None,
        typer.Option("--tokens-file", metavar="FILE", help="Token ids from a file, apart by commas or blanks; - is standard input."),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens", "-n", metavar="N", help="Generate up to N tokens, each the likeliest, and print the text as it comes."
        ),
    ] = 0,
    steps: Annotated[
        str,
        typer.Option(
            "--steps", metavar="A..B", help="Steps that the taps record, B exclusive: 0 is the prompt, i the i-th generated token."
        ),
    ] = "0..1",
    prefill_chunk: Annotated[
        int | None,
        typer.Option("--prefill-chunk", metavar="N", help="Run the prompt N positions at a time; results do not depend on it [all]."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to write the trace [<model-stem>-trace beside the model]."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=1024, help="Threads; results do not depend on it [all processors].")
    ] = None,
    positions: Annotated[str, typer.Option("--positions", metavar="last|all", help="Positions whose logits lm_head holds.")] = "last",
    force: Force = False,
    stats_only: Annotated[bool, typer.Option("--stats-only", help="Write the manifest with its statistics, and no tensors.")] = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", metavar="TARGET[:N]", help="With a MODEL: llvm, cuda or reference [llvm]. cuda:N is the GPU number N."
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", metavar="GGUF", help="With an ARTIFACT: where its model lies now.")] = None,
    rpc: Annotated[
        str | None,
        typer.Option("--rpc", metavar="HOST:PORT[/KEY]", help="Run on the TVM RPC server there; the trace is that of a run here."),
    ] = None,
    override_kv: Override = None,
    ignore: Ignore = None,
    json: Json = False,
    _family: Families = None,
) -> None:
    """Run a model on a prompt, dump the tensors that the plan selects, and go on with the text if asked for.

    Each tensor becomes one APRT file, layer-<N>/<stage>.bin, beside a manifest trace.json; those of generated tokens lie
    below step-<i>/. What the taps do not need is not computed, and its weights are not read.

    \b
    Example:
      aprgraph run model.gguf --taps qkv_matmul,attn_out --layers 0..2 --prompt "What is 2+2?"
      aprgraph run model.gguf --chat --prompt "What is 2+2?" --max-tokens 64
      aprgraph run model.gguf --prompt "What is 2+2?" --max-tokens 3 --taps all --steps 1..3
      aprgraph run model.gguf --prompt "What is 2+2?" --taps all --rpc board:9090
    """
    from aprgraph.api import RunOptions  # noqa: PLC0415
    from aprgraph.cli import run_report  # noqa: PLC0415
    from aprgraph.cli.generated_text import GeneratedText  # noqa: PLC0415
    from aprgraph.cli.target import parse_target  # noqa: PLC0415
    from aprgraph.graph.errors import ArtifactError, PlanError, TokenError  # noqa: PLC0415
    from aprgraph.graph.plan import parse_plan, parse_steps  # noqa: PLC0415
    from aprgraph.runtime.remote.address import parse_remote  # noqa: PLC0415

    plan = parse_plan(taps, layers)
    if plan.is_empty and (stats_only or output is not None):
        raise PlanError("nothing is saved without --taps; add --taps LIST or --taps all")
    if positions not in ("last", "all"):
        raise TokenError(f"--positions {positions!r}: expected last or all")
    options = RunOptions(positions, max_tokens, parse_steps(steps), prefill_chunk)
    target, gpu = (None, 0) if target is None else parse_target(target)
    if rpc is not None:
        parse_remote(rpc)  # before anything that takes time
        if target == "reference":
            raise ArtifactError("--rpc runs compiled kernels, and --target reference has none; leave out one of them")
    given = read_input(prompt, prompt_file, tokens, tokens_file, chat, system)
    opened = _open(source, target, model, override_kv or [], ignore or [], elsewhere=rpc is not None)
    run_plan = opened.plan(plan, encode(opened, given, chat, system), options)
    print_notices(run_plan.notices)
    directory = output or opened.default_trace_directory
    if not plan.is_empty:
        _check_place(directory, force=force)
    compiled = replace(_compile(opened, target, None if rpc else gpu), once=True, gpu=gpu)
    if rpc is not None:
        compiled = compiled.on(rpc)
    text = GeneratedText(compiled.model.metadata, run_plan.tokens, quiet=json)
    if plan.is_empty and not max_tokens:
        run_report.report_next(compiled, run_plan, compiled.logits_of(run_plan, threads=threads), json)
    elif plan.is_empty:
        outcome = compiled.execute(run_plan, threads=threads, on_token=text.add)
        text.finish()
        run_report.report_generation(compiled, run_plan, outcome.generated, outcome.ended_by, text.text, json)
    else:
        with written_by("-o", force=True):
            trace = _record(compiled, run_plan, directory, threads, stats_only, text, force=force, quiet=json)
        run_report.report_trace(compiled, trace, text.text if max_tokens else None, json)


def _open(
    source: Path | None, target: str | None, model: Path | None, override_kv: list[str], ignore: list[str], *, elsewhere: bool
) -> CompiledModel | LoadedModel:
    """What the arguments name: an artifact, or a model, as the artifact that the cache has of it. Raises AprgraphError.

    An artifact may be for another CPU if it is to run ``elsewhere``.
    """
    from aprgraph.api import load, open_artifact  # noqa: PLC0415
    from aprgraph.graph.errors import ArtifactError  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415

    overrides = parse_overrides(override_kv)
    chosen = source if source is not None else _only_artifact()
    if chosen.is_dir():
        compiled = open_artifact(chosen, model, elsewhere=elsewhere)
        if overrides or ignore:
            option = "--override-kv" if overrides else "--ignore"
            raise ArtifactError(
                f"{chosen}: {option} changes the graph, so it must be given to `aprgraph compile`, or to run with the MODEL"
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
    loaded = load(chosen, overrides, ignore)
    return loaded.find_cached(target or "llvm") or loaded


def _compile(opened: CompiledModel | LoadedModel, target: str | None, gpu: int | None) -> CompiledModel:
    """Compiles what is not compiled yet; that takes seconds, so it comes after all else, a GPU here included, has been checked."""
    from aprgraph.api import CompiledModel  # noqa: PLC0415

    if isinstance(opened, CompiledModel):
        return opened
    if target == "cuda" and gpu is not None:
        from aprgraph.runtime.cuda.driver import find_gpu, load_driver  # noqa: PLC0415

        find_gpu(load_driver(), gpu)
    with spinner(f"compiling {opened.model.path.name}"):
        return opened.compile_cached(target or "llvm", on_notice=print_notice)


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


def _check_place(directory: Path, *, force: bool) -> None:
    """Raise TraceError, before anything is compiled, where a trace would overwrite what is somebody's; say what stays beside it."""
    from aprgraph.runtime.output_file import probe  # noqa: PLC0415
    from aprgraph.runtime.trace.destination import check_trace_place, describe_others  # noqa: PLC0415

    with written_by("-o", force=True):
        others = check_trace_place(directory, force=force).others
        probe(directory)
    if others:
        print_notice(describe_others(directory, others))


def _record(
    compiled: CompiledModel,
    run_plan: RunPlan,
    directory: Path,
    threads: int | None,
    stats_only: bool,
    text: GeneratedText,
    *,
    force: bool,
    quiet: bool,
) -> Trace:
    from aprgraph.api import check_room  # noqa: PLC0415
    from aprgraph.graph.words import bytes_text  # noqa: PLC0415

    count = len(run_plan.taps) * len(run_plan.options.steps)
    tensors = "1 tensor" if count == 1 else f"{count} tensors"
    if stats_only:
        announcement = f"{tensors}, statistics only, in {directory}{os.sep}"
    else:
        announcement = f"{tensors}, {bytes_text(run_plan.nbytes)}, will be written to {directory}{os.sep}"
        check_room(directory, run_plan.nbytes)
    if not quiet:
        typer.echo(announcement)
    if run_plan.options.max_tokens:  # the text shows how far it is
        trace = compiled.record(run_plan, directory, threads=threads, stats_only=stats_only, force=force, on_token=text.add)
        text.finish()
        return trace
    with progress_bar("tracing", count) as advance:
        return compiled.record(run_plan, directory, threads=threads, stats_only=stats_only, force=force, on_entry=lambda _: advance())
