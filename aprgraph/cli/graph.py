"""`aprgraph graph`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.graph_passes import check_print, choose_passes, run_chosen
from aprgraph.cli.graph_source import open_graph
from aprgraph.cli.options import Families, Force, Ignore, Map, Override
from aprgraph.cli.terminal import echo_data
from aprgraph.cli.verbosity import Quiet, Verbose
from aprgraph.cli.write_errors import written_by

if TYPE_CHECKING:
    from aprgraph.graph.export.view import View
    from aprgraph.graph.ir import Graph
    from aprgraph.graph.model import Model
    from aprgraph.runtime.comparison import Comparison
    from aprgraph.runtime.diff.sources import Source


def graph(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL|ARTIFACT|TRACE", help="A model, or the directory of an artifact or a trace (default with --diff: A)."
        ),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="text, dot, svg, html, json, graphml, mermaid or model-explorer (default: by the ending of -o, else text).",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="A..B|A..|A|all",
            help="Show these layers only, unfolded, B exclusive; with --taps, also the layers to tap (default 0..1).",
        ),
    ] = None,
    taps: Annotated[
        str | None,
        typer.Option(
            "--taps", metavar="LIST|all", help="Tap these stages, as `run` would; see `aprgraph stages` (default with insert-taps: all)."
        ),
    ] = None,
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes",
            metavar="LIST",
            help="Run these passes in order, options in braces, such as insert-taps,prune (default with --taps: insert-taps).",
        ),
    ] = None,
    print_ir_after: Annotated[
        str | None, typer.Option("--print-ir-after", metavar="PASS|all", help="Print the text of the graph after a pass, to stderr.")
    ] = None,
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--diff", metavar="A B", help="Compare two traces, and colour stages by how far they diverge (in the prompt's pass)."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="With --diff: the model that both are to be runs of; colour by whose fault it is, and mark what can explain it.",
            show_default=False,
        ),
    ] = None,
    model_a: Annotated[
        Path | None,
        typer.Option(
            "--model-a", metavar="MODEL", help="With --diff: the model of A, where B is of another file of it.", show_default=False
        ),
    ] = None,
    model_b: Annotated[Path | None, typer.Option("--model-b", metavar="MODEL", help="The model of B.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="As -f html -o FILE: a page to search and fold, which opens offline.")
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option("--beside", metavar="MODEL|ARTIFACT|TRACE", help="With html: another graph side by side, and what differs."),
    ] = None,
    node_data: Annotated[
        Path | None,
        typer.Option("--node-data", metavar="FILE", help="With --diff: write the errors there, as node data of Model Explorer, too."),
    ] = None,
    force: Force = False,
    unfold: Annotated[bool, typer.Option("--unfold", help="Draw every layer; otherwise equal neighbours are drawn once.")] = False,
    override_kv: Override = None,
    ignore: Ignore = None,
    names: Map = None,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Print or draw the graph of a model, an artifact or a trace.

    \b
    Example:
      aprgraph graph model.gguf -o model.svg
      aprgraph graph model.gguf --taps qkv_matmul --passes insert-taps,prune
      aprgraph graph model.gguf --passes "insert-taps{taps=attn_out layers=0..2},prune,one-pass"
      aprgraph graph --diff good bad -o where.svg
      aprgraph graph ours --html model.html --beside theirs
      aprgraph graph --diff good bad -f model-explorer -o graph.json --node-data errors.json
      aprgraph graph --diff good bad --model model.gguf -o whose.svg
      aprgraph graph --diff quantised original --model-a model.gguf --model-b checkpoint/ -o whose.svg

    With --diff, stages have the classes of `aprgraph diff`, and with models its verdicts; of several steps the prompt's is drawn.
    """
    from aprgraph.graph.export.formats import EXPORTERS  # noqa: PLC0415
    from aprgraph.graph.export.model_explorer import export_node_data  # noqa: PLC0415
    from aprgraph.graph.export.view import make_view  # noqa: PLC0415
    from aprgraph.graph.passes.insert_taps import stages_in  # noqa: PLC0415
    from aprgraph.graph.tap_plan import parse_layers  # noqa: PLC0415
    from aprgraph.runtime.output_file import write_text_atomically  # noqa: PLC0415

    if html is not None:
        output, output_format = _only_html(html, output, output_format)
    chosen = _choose_format(output_format, output)
    inputs = [one for one in (source, *(diff or ()), model, model_a, model_b, beside) if one is not None]
    if output is not None:
        _check_place(output, inputs, "-o" if html is None else "--html", force=force)
    if node_data is not None:
        _check_place(node_data, inputs, "--node-data", force=force)
    _check_together(chosen, beside, node_data, diff)
    opened_stages = None if source is None else lambda: stages_in(open_graph(source, override_kv, ignore))
    chosen_passes = choose_passes(passes, taps, layers, opened_stages)
    shown = parse_layers(layers) if layers is not None else None
    if print_ir_after is not None:
        check_print(print_ir_after, [one.name for one in chosen_passes])
    sides = _sides(diff, names or [])
    truth = _truth(sides, (model, model_a, model_b), override_kv, ignore)
    # A trace has its graph; what is overridden then is the model that judges it.
    options = (None, None) if source is not None and source.is_dir() and truth is not None else (override_kv, ignore)
    opened = _graph_of_diff(sides, truth) if source is None else open_graph(source, *options)
    if chosen_passes:
        opened = run_chosen(opened, chosen_passes, print_ir_after)
    if chosen == "text" and chosen_passes:
        shown = None  # the text after passes is a whole graph, which parses back
    report = None if sides is None else _compare(*sides, truth)
    if report is None:
        view = make_view(opened, layers=shown, fold=not unfold)
    else:
        colouring, suspects, called = report.colouring(), report.suspects, report.names.both
        view = make_view(opened, layers=shown, fold=not unfold, colouring=colouring, suspects=suspects, sides=called)
    text = _page(view, source, report, beside, shown, fold=not unfold) if chosen == "html" else EXPORTERS[chosen](view)
    if node_data is not None:
        with written_by("--node-data"):
            write_text_atomically(node_data, export_node_data(view))
    if output is None:
        echo_data(text)
        return
    with written_by("-o" if html is None else "--html"):
        write_text_atomically(output, text)


def _only_html(html: Path, output: Path | None, output_format: str | None) -> tuple[Path, str]:
    """The file and the format of --html. Raises AprgraphError where another file or format is asked for beside it."""
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    if output is not None or output_format is not None:
        raise AprgraphError(f"--html {html}: says both what is written and where; leave out {'-o' if output is not None else '--format'}")
    return html, "html"


def _check_together(chosen: str, beside: Path | None, node_data: Path | None, diff: tuple[Path, Path] | None) -> None:
    """Raise AprgraphError for options that bear on nothing."""
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    if beside is not None and chosen != "html":
        raise AprgraphError(f"--beside {beside}: two graphs stand side by side in a page alone; give --html FILE")
    if node_data is not None and diff is None:
        raise AprgraphError(f"--node-data {node_data}: it holds the errors of two traces, and there is no --diff; give both")


def _page(view: View, source: Path | None, report: Comparison | None, beside: Path | None, shown: range | None, *, fold: bool) -> str:
    """The page, with what is known of the values, and the other graph. Raises AprgraphError."""
    from aprgraph.cli.graph_facts import facts_of_comparison, facts_of_trace  # noqa: PLC0415
    from aprgraph.graph.export.html_page import render  # noqa: PLC0415
    from aprgraph.graph.export.view import make_view  # noqa: PLC0415

    facts = facts_of_comparison(report) if report is not None else facts_of_trace(source) if source is not None else {}
    views, called = [replace(view, facts=facts)], None
    if beside is not None:
        views.append(replace(make_view(open_graph(beside), layers=shown, fold=fold), facts=facts_of_trace(beside)))
        called = [view.graph.name if source is None else str(source), str(beside)]
    return render(views, called)


def _check_place(output: Path, inputs: list[Path], option: str, *, force: bool) -> None:
    """Raise TraceError for a file that is there and is no graph, unless ``force`` is given, and for one of ``inputs`` in any case."""
    from aprgraph.graph.export.formats import is_export  # noqa: PLC0415
    from aprgraph.runtime.output_file import check_file_place, refuse_input  # noqa: PLC0415

    with written_by(option, force=True):
        refuse_input(output, inputs, is_export)
        check_file_place(output, lambda head: force or is_export(head), "graph", forcible=True)


def _sides(diff: tuple[Path, Path] | None, names: list[str]) -> tuple[Source, Source] | None:
    """The two sides, what other programs left opened and its arrays placed by ``names``. Raises AprgraphError."""
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.runtime.diff.sources import open_foreign_sides, open_pair  # noqa: PLC0415

    if diff is None:
        if names:
            raise AprgraphError("--map: it names arrays of a side of --diff, and there is none; give both, or leave it out")
        return None
    return open_pair(*open_foreign_sides(diff, names))


def _truth(
    diff: tuple[Source, Source] | None,
    models: tuple[Path | None, Path | None, Path | None],
    override_kv: list[str] | None,
    ignore: list[str] | None,
) -> tuple[Model, Model] | None:
    """The models to judge A and B by, if any is named: of both, of A, of B. Raises AprgraphError."""
    from aprgraph.comparison import load_models_of  # noqa: PLC0415
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415

    if diff is None:
        for option, model in zip(("--model", "--model-a", "--model-b"), models, strict=True):
            if model is not None:
                raise AprgraphError(
                    f"{option} {model}: it judges two traces, and there is no --diff; to draw it, give it as the source: graph {model}"
                )
        return None
    return load_models_of(*diff, *models, parse_overrides(override_kv or []), ignore or [])


def _graph_of_diff(sides: tuple[Source, Source] | None, truth: tuple[Model, Model] | None) -> Graph:
    """The graph of the first of two traces that has one, else that of the model."""
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.graph.model_graph import build_graph  # noqa: PLC0415
    from aprgraph.runtime.diff.sources import open_source  # noqa: PLC0415

    if sides is None:
        raise AprgraphError("nothing to draw: give a model, an artifact or a trace, or two traces with --diff A B")
    opened = [open_source(side) for side in sides]
    for trace in opened:
        if (found := trace.graph()) is not None:
            return found
    if truth is not None:
        return build_graph(truth[0])
    named = " ".join(str(trace.directory) for trace in opened)
    raise AprgraphError(f"--diff {named}: neither trace has a graph; name the model too: graph MODEL --diff A B")


def _compare(a: Source, b: Source, truth: tuple[Model, Model] | None) -> Comparison:
    from aprgraph.cli.progress import replaying  # noqa: PLC0415
    from aprgraph.comparison import diff as compare  # noqa: PLC0415

    with replaying(None) as progress:
        ours, theirs = (None, None) if truth is None else truth
        return compare(a, b, model_a=ours, model_b=theirs, on_replay=progress)


def _choose_format(output_format: str | None, output: Path | None) -> str:
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.graph.export.formats import EXPORTERS, FORMAT_BY_SUFFIX  # noqa: PLC0415

    if output_format is not None:
        if output_format.lower() not in EXPORTERS:
            raise AprgraphError(f"--format {output_format!r}: expected one of {', '.join(EXPORTERS)}")
        return output_format.lower()
    if output is None:
        return "text"
    if output.suffix.lower() not in FORMAT_BY_SUFFIX:
        known = ", ".join(FORMAT_BY_SUFFIX)
        raise AprgraphError(f"-o {output}: its ending names no format; end it in one of {known}, or give --format ({', '.join(EXPORTERS)})")
    return FORMAT_BY_SUFFIX[output.suffix.lower()]
