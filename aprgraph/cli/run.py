"""`aprgraph run`."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from aprgraph.cli.input import chat_by_default, encode, read_input, say_ended_at_once
from aprgraph.cli.notices import print_notice, print_notices
from aprgraph.cli.options import Families, Force, Ignore, Json, Layers, Override
from aprgraph.cli.progress import progress_bar
from aprgraph.cli.run_options import (
    Apr,
    Arithmetic,
    Chat,
    Executor,
    Fingerprint,
    MaxTokens,
    ModelPlace,
    Output,
    Positions,
    PrefillChunk,
    Prompt,
    PromptFile,
    Rpc,
    Source,
    Split,
    StatsOnly,
    Steps,
    System,
    Taps,
    Target,
    Threads,
    Tokens,
    TokensFile,
)
from aprgraph.cli.run_source import compile_source, open_source, stages_of
from aprgraph.cli.verbosity import Quiet, Verbose, explain, is_quiet
from aprgraph.cli.write_errors import written_by
from aprgraph.graph.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aprgraph.api import CompiledModel, LoadedModel, RunOptions, RunPlan
    from aprgraph.cli.generated_text import GeneratedText
    from aprgraph.graph.layer_split import LayerRange
    from aprgraph.graph.tap_plan import Plan
    from aprgraph.runtime.trace.reader import Trace


#: The layers that are recorded where none are named, as `apr trace` has it.
FIRST_LAYER = "0..1"


def run(
    context: typer.Context,
    source: Source = None,
    taps: Taps = None,
    layers: Layers = None,
    apr: Apr = False,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    chat: Chat = False,
    system: System = None,
    tokens: Tokens = None,
    tokens_file: TokensFile = None,
    max_tokens: MaxTokens = 0,
    steps: Steps = "0..1",
    prefill_chunk: PrefillChunk = None,
    output: Output = None,
    threads: Threads = None,
    positions: Positions = "last",
    fingerprint: Fingerprint = "sampled",
    force: Force = False,
    stats_only: StatsOnly = False,
    target: Target = None,
    arithmetic: Arithmetic = None,
    model: ModelPlace = None,
    rpc: Rpc = None,
    split: Split = None,
    executor: Executor = None,
    override_kv: Override = None,
    ignore: Ignore = None,
    json: Json = False,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
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
      aprgraph run model.gguf --taps all --layers all --split 0..16@one:9090,16..32@two:9090
      aprgraph run model.apr --apr --layers 0..2
      aprgraph run model.gguf --taps all --target reference --arithmetic ggml-avx2
    """
    from aprgraph.graph.layer_split import parse_split, split_of_model  # noqa: PLC0415
    from aprgraph.runs.default_place import somebody_elses_place  # noqa: PLC0415

    target, gpu = _target(target, rpc, split, executor)
    open_it = partial(
        open_source, source, target, model, override_kv or [], ignore or [], arithmetic, elsewhere=rpc is not None or split is not None
    )
    # An artifact first, since it may declare stages of its own, which the taps name.
    artifact = open_it() if source is None or source.is_dir() else None
    wanted = "apr" if apr and taps is None else taps, FIRST_LAYER if layers is None else layers
    plan = _plan(*wanted, lambda: artifact or open_it(), saves=stats_only or output is not None)
    if plan.is_empty:
        _say_idle(context)
    options = _options(positions, max_tokens, steps, prefill_chunk, arithmetic, fingerprint)
    given = read_input(prompt, prompt_file, tokens, tokens_file, chat, system, raw=apr)
    opened = artifact or open_it()
    if max_tokens and not chat and not apr and all(one is None for one in (prompt, prompt_file, tokens, tokens_file)):
        chat = chat_by_default(opened.model)
    run_plan = opened.plan(plan, encode(opened, given, chat, system, raw=apr), options)
    print_notices(run_plan.notices)
    if split is not None:
        _say_who_computes(split_of_model(parse_split(split), opened.model.family.layers), run_plan, executor)
    directory = output or opened.default_trace_directory
    if not plan.is_empty:
        if output is None and (what := somebody_elses_place(opened.model.path)) is not None:
            print_notice(f"the model lies in {what}, so the trace goes into this folder; -o gives another place")
        _check_place(directory, force=force)
    compiled = replace(compile_source(opened, target, None if rpc or split else gpu, arithmetic), gpu=gpu)
    if split is not None:
        compiled = compiled.across(split, executor)
    elif rpc is not None:
        compiled = compiled.on(rpc)
    explain(f"the artifact is {compiled.artifact.directory}, for {compiled.artifact.target_name}, of {compiled.model.path}")
    explain(f"{len(run_plan.tokens)} tokens; recorded: {run_plan.plan.describe()}")
    if plan.is_empty:
        generated = _generate(compiled, run_plan, threads, quiet=json)
    else:
        generated = _trace(compiled, run_plan, directory, threads, stats_only, force=force, quiet=json)
        if layers is None:
            _say_left_out(run_plan)
    if not chat:
        say_ended_at_once(compiled.model, generated, is_next=not max_tokens)


def _plan(taps: str | None, layers: str, opened: Callable[[], CompiledModel | LoadedModel], *, saves: bool) -> Plan:
    """What to record; ``opened`` opens the model, to say which stages it has where one is unknown, and ``saves`` says that an option
    is given that is for what is recorded. Raises PlanError.
    """
    from aprgraph.graph.errors import PlanError  # noqa: PLC0415
    from aprgraph.graph.tap_plan import parse_plan  # noqa: PLC0415

    plan = parse_plan(taps, layers, lambda: stages_of(opened()))
    if plan.is_empty and saves:
        raise PlanError("nothing is saved without --taps; add --taps LIST or --taps all")
    return plan


def _say_idle(context: typer.Context) -> None:
    """That layers are named where nothing is recorded of them; those of a settings file are for other runs."""
    source = context.get_parameter_source("layers")
    if source is not None and source.name == "COMMANDLINE":
        print_notice("nothing is recorded without --taps, so --layers changes nothing; --taps all records every stage")


def _say_who_computes(split: Sequence[LayerRange], run_plan: RunPlan, executor: str | None) -> None:
    """Which layers are computed where, and which nowhere, since no tap needs them."""
    from aprgraph.graph.passes.insert_taps import layer_count  # noqa: PLC0415
    from aprgraph.graph.tap_plan import range_text  # noqa: PLC0415

    needed = max(layer_count(graph.staged()) for graph in run_plan.graphs())
    for one in split:
        layers, place = range_text(one.layers), one.place or f"a worker ({executor or 'local'})"
        if one.layers.start < needed:
            explain(f"the layers {layers} are computed at {place}")
        else:
            print_notice(f"nothing of the layers {layers} is needed, so {place} is not asked")


def _say_left_out(run_plan: RunPlan) -> None:
    """That the first layer alone is recorded, where that was not asked for and there are others."""
    from aprgraph.graph.passes.insert_taps import layer_count  # noqa: PLC0415

    others = layer_count(run_plan.untapped.staged()) - 1
    if run_plan.plan.selects_layers and others > 0:
        print_notice(f"layer 0 is recorded, and {counted(others, 'layer')} left out; --layers all records every one")


def _options(
    positions: str, max_tokens: int, steps: str, prefill_chunk: int | None, arithmetic: str | None, fingerprint: str
) -> RunOptions:
    """How to run. Raises PlanError for steps and fingerprints that are none, and TokenError for other positions than there are."""
    from aprgraph.graph.errors import PlanError, TokenError  # noqa: PLC0415
    from aprgraph.graph.tap_plan import parse_steps  # noqa: PLC0415
    from aprgraph.runs.plan import FINGERPRINTS, POSITIONS, RunOptions  # noqa: PLC0415

    if positions not in POSITIONS:
        raise TokenError(f"--positions {positions!r}: expected {' or '.join(POSITIONS)}")
    if fingerprint not in FINGERPRINTS:
        raise PlanError(f"--fingerprint {fingerprint!r}: expected {' or '.join(FINGERPRINTS)}")
    return RunOptions(positions, max_tokens, parse_steps(steps), prefill_chunk, arithmetic, fingerprint)


def _target(target: str | None, rpc: str | None, split: str | None, executor: str | None) -> tuple[str | None, int]:
    """The target and the number of the GPU; where to run is looked at too, before anything that takes time. Raises AprgraphError."""
    from aprgraph.graph.errors import ArtifactError, PlanError  # noqa: PLC0415
    from aprgraph.graph.layer_split import parse_split  # noqa: PLC0415
    from aprgraph.runs.open_engine import check_split  # noqa: PLC0415
    from aprgraph.runtime.remote.address import parse_remote  # noqa: PLC0415
    from aprgraph.target_words import parse_target  # noqa: PLC0415

    named, gpu = (None, 0) if target is None else parse_target(target, "--target")
    if rpc is not None and split is not None:
        raise PlanError("--rpc runs all layers on one server, and --split names the server of each; leave out one of them")
    if rpc is not None:
        parse_remote(rpc)
    if split is not None:
        check_split(parse_split(split), executor, named)
    elif executor is not None:
        raise PlanError("--executor is for --split, and says where workers are that run ranges of layers; give both")
    if named == "reference" and (rpc is not None or split is not None):
        option = "--split" if rpc is None else "--rpc"
        raise ArtifactError(f"{option} runs compiled kernels, and --target reference has none; leave out one of them")
    return named, gpu


def _check_place(directory: Path, *, force: bool) -> None:
    """Raise TraceError, before anything is compiled, where a trace would overwrite what is somebody's; say what stays beside it."""
    from aprgraph.runtime.output_file import probe  # noqa: PLC0415
    from aprgraph.runtime.trace.destination import check_trace_place, describe_others  # noqa: PLC0415

    with written_by("-o", force=True):
        others = check_trace_place(directory, force=force).others
        probe(directory)
    if others:
        print_notice(describe_others(directory, others))


def _generate(compiled: CompiledModel, run_plan: RunPlan, threads: int | None, *, quiet: bool) -> Sequence[int]:
    """Run with nothing recorded: print the text as it comes, the next token where none is to be generated, or the embedding.

    Returns what was generated, or would be: the next token.
    """
    from aprgraph.cli import run_report  # noqa: PLC0415
    from aprgraph.cli.generated_text import GeneratedText  # noqa: PLC0415

    text = GeneratedText(compiled.model.metadata, run_plan.tokens, quiet=quiet)
    if not run_plan.options.max_tokens:
        output = compiled.output_of(run_plan, threads=threads)
        if not compiled.gives_logits:
            run_report.report_embedding(compiled, run_plan, output, quiet)
            return ()
        return [token for token in run_report.report_next(compiled, run_plan, output, quiet)[-1:] if token is not None]
    outcome = compiled.execute(run_plan, threads=threads, on_token=text.add)
    text.finish()
    run_report.report_generation(compiled, run_plan, outcome.generated, outcome.ended_by, text.text, quiet)
    return outcome.generated


def _trace(
    compiled: CompiledModel, run_plan: RunPlan, directory: Path, threads: int | None, stats_only: bool, *, force: bool, quiet: bool
) -> Sequence[int]:
    """Run and record. Returns what was generated."""
    from aprgraph.cli import run_report  # noqa: PLC0415
    from aprgraph.cli.generated_text import GeneratedText  # noqa: PLC0415

    text = GeneratedText(compiled.model.metadata, run_plan.tokens, quiet=quiet)
    with written_by("-o", force=True):
        trace = _record(compiled, run_plan, directory, threads, stats_only, text, force=force, quiet=quiet)
    if quiet or not is_quiet():
        run_report.report_trace(compiled, trace, text.text if run_plan.options.max_tokens else None, quiet)
    return () if trace.info is None else trace.info.extra.get("generated", ())


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
    from aprgraph.runtime.trace.destination import check_trace_place, describe_replaced  # noqa: PLC0415

    count = len(run_plan.taps) * len(run_plan.options.steps)
    tensors = "1 tensor" if count == 1 else f"{count} tensors"
    if stats_only:
        announcement = f"{tensors}, statistics only, in {directory}{os.sep}"
    else:
        announcement = f"{tensors}, {bytes_text(run_plan.nbytes)}, will be written to {directory}{os.sep}"
        check_room(directory, run_plan.nbytes)
    if not quiet and not is_quiet():
        typer.echo(announcement)
    if (replaced := check_trace_place(directory, force=force).replaced) is not None:
        print_notice(describe_replaced(directory, replaced))
    if run_plan.options.max_tokens:  # the text shows how far it is
        trace = compiled.record(run_plan, directory, threads=threads, stats_only=stats_only, force=force, on_token=text.add)
        text.finish()
        return trace
    with progress_bar("tracing", count) as advance:
        return compiled.record(run_plan, directory, threads=threads, stats_only=stats_only, force=force, on_entry=lambda _: advance())
