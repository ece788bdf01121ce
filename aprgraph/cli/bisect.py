"""``aprgraph bisect``: on two targets, where does a model first part from itself?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.follow_up import check_page, check_repro, write_guilty
from aprgraph.cli.input import encode, read_input
from aprgraph.cli.notices import print_notice, print_notices
from aprgraph.cli.options import Families, Html, Ignore, Override, Repro
from aprgraph.cli.progress import spinner
from aprgraph.cli.verbosity import Quiet, Verbose, is_quiet
from aprgraph.cli.verdict import echo_wrapped, print_verdict
from aprgraph.cli.write_errors import Afterwards, written_by
from aprgraph.option_words import document_in_option_words, option_words

if TYPE_CHECKING:
    from aprgraph.api import CompiledModel, LoadedModel
    from aprgraph.bisection import Bisection
    from aprgraph.graph.held_graph import HeldGraph
    from aprgraph.graph.tap_plan import Plan

_SIDE = "llvm, cuda[:N] or reference, or the directory of an artifact."
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def bisect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A GGUF file, an .apr file, or a checkpoint.", show_default=False)],
    a: Annotated[str, typer.Option("--a", metavar="TARGET", help=f"One side: {_SIDE}", show_default=False)],
    b: Annotated[str, typer.Option("--b", metavar="TARGET", help="The other side.", show_default=False)],
    model_b: Annotated[
        Path | None, typer.Option("--model-b", metavar="MODEL", help="Another file of the model, for the other side.", show_default=False)
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="The input [What is 2+2?].")] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", metavar="1,2,3,…", help="The input as token ids.")] = None,
    room: Annotated[
        str, typer.Option("--room", metavar="BYTES", help="Disk that the two traces of a round may take together, such as 500M or 2G.")
    ] = "1G",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Keep the last round's traces there, in a/ and b/ [a temporary folder, removed]."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="Threads [all processors].")] = None,
    arithmetic: Annotated[
        str,
        typer.Option(
            "--arithmetic",
            metavar="NAME[,cache=f16|f32][,flash=on|off]",
            help="Sides that are targets round as an engine does (docs/arithmetic.md); an artifact has its own.",
        ),
    ] = "plain",
    profile: Annotated[str | None, typer.Option("--profile", help="Tolerances, as for `aprgraph diff` [by what the targets are].")] = None,
    override_kv: Override = None,
    ignore: Ignore = None,
    repro: Repro = None,
    html: Html = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rounds and the last comparison as JSON.")] = False,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Find the first stage at which a model's runs on two targets part, in rounds of few taps, and say which side is wrong.

    The first round taps the ends of all layers, or of as many as fit into --room; the next ones go between the last that
    agreed and the first that did not, down to the stages of one layer.

    With --model-b the sides are runs of two files of one model, each judged by its own.

    \b
    Example:
      aprgraph bisect model.gguf --a llvm --b reference --prompt "What is 2+2?"
      aprgraph bisect model.gguf --a reference --b patched.cuda.aprg --repro guilty
      aprgraph bisect model.gguf --a llvm --b reference --arithmetic ggml-avx2

    Exit code: 0 alike, 1 diverged, 2 could not be run or compared.
    """
    from aprgraph.api import load  # noqa: PLC0415
    from aprgraph.bisection import bisect_compiled, check_place, open_side, place_for  # noqa: PLC0415
    from aprgraph.comparison import guilty_of_diff  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415
    from aprgraph.runtime.comparison.other_weights import check_comparable  # noqa: PLC0415
    from aprgraph.runtime.diff.side_names import side_names  # noqa: PLC0415
    from aprgraph.runtime.diff.tolerances import check_profile  # noqa: PLC0415

    limit = _parse_room(room)
    if profile is not None:
        check_profile(profile)
    check_page(html)
    check_repro(repro)
    if output is not None:
        with written_by("-o"):
            check_place(output)
    late = Afterwards()
    given = read_input(prompt, None, tokens, None, chat=False, system=None)
    overrides = parse_overrides(override_kv or [])
    loaded = load(model, overrides, ignore or [], lambda _: _held_graph(*((a, b) if model_b is None else (a,))))
    other = loaded if model_b is None else load(model_b, overrides, ignore or [], lambda _: _held_graph(b))
    check_comparable(loaded.model, other.model)
    print_notices(tuple(dict.fromkeys((*loaded.model.notices, *other.model.notices))))
    ids = encode(loaded, given, chat=False, system=None)

    def opened(of: LoadedModel, option: str, text: str) -> CompiledModel:
        with spinner(f"compiling {of.model.path.name} for {text}"):
            return open_side(of, option, text, arithmetic, print_notice)

    sides, names = (opened(loaded, "--a", a), opened(other, "--b", b)), side_names(a, b)
    with written_by("-o"), place_for(output) as place:
        found = bisect_compiled(
            loaded.model,
            *sides,
            ids,
            place,
            model_b=other.model,
            room=limit,
            profile=profile,
            threads=threads,
            names=names,
            on_round=_announce(as_json or is_quiet()),
        )
        if html is not None:
            from aprgraph.runtime.report import write_page  # noqa: PLC0415

            with late.written_by("--html"):
                write_page(html, found.report, found.a, found.b, option_words)
        if repro is not None:
            with late.written_by("--repro"):
                guilty = guilty_of_diff(found.report, found.a, found.b)
                write_guilty(repro, guilty, (other if guilty is not None and guilty.is_b else loaded).model)
        if as_json:
            typer.echo(json.dumps(document_in_option_words(_document(found)), indent=1, allow_nan=False))
        else:
            _print(found, output, is_done=repro is not None)
    late.finish()
    raise typer.Exit(found.report.exit_code)


def _parse_room(text: str) -> int:
    from aprgraph.graph.errors import ComparisonError, shown  # noqa: PLC0415

    match = re.fullmatch(r"(\d{1,15})([KMG]?)B?", text.strip().upper(), re.ASCII)
    if match is None or not int(match[1]):
        raise ComparisonError(f"--room {shown(text)}: expected a number of bytes, such as 500M or 2G")
    return int(match[1]) * _UNITS[match[2]]


def _held_graph(*sides: str) -> HeldGraph | None:
    """The graph of a side that is an artifact, for a model whose family is not known. Raises AprgraphError."""
    from aprgraph.codegen.artifact import read_artifact  # noqa: PLC0415
    from aprgraph.graph.errors import ComparisonError  # noqa: PLC0415
    from aprgraph.runtime.diff.graph_differences import compare_graphs  # noqa: PLC0415

    found = [read_artifact(side) for side in sides if Path(side).is_dir()]
    differences = compare_graphs(found[0].graph, found[-1].graph).computed if found else ()
    if differences:
        raise ComparisonError(
            f"the artifacts hold the graphs of two models ({differences[0].sentence}); their family is not known here, and only that says "
            "which one is the model's: give --family FILE.py"
        )
    return found[0].held if found else None


def _announce(quiet: bool) -> Callable[[Plan, int], None]:
    from aprgraph.graph.words import bytes_text  # noqa: PLC0415

    def announce(plan: Plan, nbytes: int) -> None:
        if not quiet:
            typer.echo(f"taps {','.join(plan.stages)}, layers {_layers(plan.layers)}: {bytes_text(nbytes)}")

    return announce


def _layers(layers: range) -> str:
    every = f", one in {layers.step}" if layers.step > 1 else ""
    return f"{layers.start}..{layers.stop}{every}"


def _print(found: Bisection, output: Path | None, *, is_done: bool) -> None:
    print_verdict(found.summary, found.sentence, is_done=is_done)
    if not is_quiet() and output is not None:
        echo_wrapped(f"the last round's traces: {output / 'a'} and {output / 'b'}")


def _document(found: Bisection) -> dict[str, object]:
    return {
        "format": "aprgraph-bisection",
        "version": 2,
        "sentence": found.sentence,
        "exit_code": found.report.exit_code,
        "rounds": [
            {"plan": one.plan.describe(), "bytes": one.nbytes, "verdict": one.report.verdict, "diverged": one.report.diverged}
            for one in found.rounds
        ],
        "report": found.report.to_json(),
    }
