"""What `aprgraph run` prints when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from aprgraph.cli.verbosity import is_quiet
from aprgraph.option_words import document_in_option_words, in_option_words

if TYPE_CHECKING:
    from aprgraph.api import CompiledModel, RunPlan
    from aprgraph.runtime.trace.aprt import F32
    from aprgraph.runtime.trace.manifest import TraceEntry
    from aprgraph.runtime.trace.reader import Trace


#: How many elements of an embedding are printed.
_SHOWN = 8


def report_trace(compiled: CompiledModel, trace: Trace, text: str | None, json: bool) -> None:
    """What was recorded, and the text if one was generated."""
    from aprgraph.cli.tables import format_number, format_table  # noqa: PLC0415
    from aprgraph.runtime.element import first_in_words, first_nonfinite  # noqa: PLC0415

    bad = next((entry for entry in trace.entries if entry.statistics and not entry.statistics.is_finite), None)
    source = None if bad is None else _source_of_nan(compiled, trace, bad)
    index = first_nonfinite(trace.load(bad)) if bad is not None and bad.file is not None else None
    if json:
        _print_json(
            {
                "trace": str(trace.directory),
                "target": compiled.artifact.target_name,
                "tokens": list(trace.info.tokens) if trace.info else [],
                **({} if text is None or trace.info is None else {"generated": trace.info.extra["generated"], "text": text}),
                "first_nonfinite": None if bad is None else {"stage": bad.stage, "layer": bad.layer, "index": index, "source": source},
                "tensors": [
                    {
                        "stage": entry.stage,
                        "layer": entry.layer,
                        "step": entry.step,
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
    header = ("stage", "layer", "shape", "min", "max", "mean", "rms", "NaN/Inf", "file")
    typer.echo(format_table(header, rows, right=(1, 3, 4, 5, 6, 7), spare=(len(header) - 1,)))
    if bad is not None and bad.statistics is not None:
        counts = f"{bad.statistics.nan} NaN, {bad.statistics.inf} Inf of {bad.statistics.count}{first_in_words(bad.stage, index)}"
        typer.echo(f"first NaN or Inf: {bad.label} ({counts})")
        if source is not None:
            typer.echo(in_option_words(source))


def _source_of_nan(compiled: CompiledModel, trace: Trace, bad: TraceEntry) -> str | None:
    """What in the model file made the first tensor with NaN or Inf so, if it is the file."""
    nodes = {(node.layer, node.stage): node.name for node in compiled.artifact.graph.staged()}
    same_step = [entry for entry in trace.entries if entry.step == bad.step]
    known = {nodes[entry.layer, entry.stage] for entry in same_step if entry.statistics and entry.statistics.is_finite}
    return compiled.source_of_nan(nodes[bad.layer, bad.stage], known)


def report_next(compiled: CompiledModel, run_plan: RunPlan, logits: F32, json: bool) -> list[int | None]:
    """The next token of each position whose logits were asked for, the last one in words; returns them, None for one of NaN."""
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
    finite = bool(np.isfinite(rows).all())
    source = None if finite else compiled.source_of_nan(compiled.artifact.graph.outputs[-1])
    predictions: list[dict[str, Any]] = [
        {"position": first + i, "token": int(token), "logit": highest[i], "text": texts[i]}
        if not np.isnan(rows[i]).any()  # which NumPy would take for the largest
        else {"position": first + i, "token": None, "logit": None, "text": None}
        for i, token in enumerate(best)
    ]
    found = [item["token"] for item in predictions]
    if json:
        target = compiled.artifact.target_name
        _print_json({"tokens": list(run_plan.tokens), "target": target, "next": predictions, "nonfinite_source": source})
        return found
    for item in predictions:
        where = f"position {item['position']}: " if len(predictions) > 1 else ""
        if item["token"] is None:
            typer.echo(f"{where}no next token: its logits hold NaN")
            continue
        text = "" if item["text"] is None else f" {item['text']!r}"
        logit = "not finite" if item["logit"] is None else f"{item['logit']:.6g}"
        typer.echo(f"{where}next token {item['token']}{text}, logit {logit}")
    if not finite:
        why = "; record the stages before them with --taps" if source is None else f": {in_option_words(source)}"
        typer.echo(f"NaN or Inf among the logits{why}")
    return found


def report_embedding(compiled: CompiledModel, run_plan: RunPlan, embedding: F32, json: bool) -> None:
    """The embedding of the text, or where it is not pooled those of its positions: sizes and first elements."""
    import numpy as np  # noqa: PLC0415

    graph = compiled.artifact.graph
    stage = graph[graph.outputs[-1]].stage or graph.outputs[-1]
    rows = embedding.reshape(-1, embedding.shape[-1])
    finite = bool(np.isfinite(rows).all())
    source = None if finite else compiled.source_of_nan(graph.outputs[-1])
    if json:
        values = [[float(value) if np.isfinite(value) else None for value in row] for row in rows]
        document = {"stage": stage, "embedding": values[0] if embedding.ndim == 1 else values, "nonfinite_source": source}
        _print_json({"tokens": list(run_plan.tokens), "target": compiled.artifact.target_name, **document})
        return
    many = embedding.ndim > 1
    what = "no pooling, an embedding of each position" if many else f"embedding of {len(run_plan.tokens)} positions"
    typer.echo(f"{what} ({stage}): {rows.shape[-1]} elements")
    for position, row in enumerate(rows):
        where = f"position {position}: " if many else ""
        first = ", ".join(f"{value:.6g}" for value in row[:_SHOWN])
        typer.echo(f"{where}length {np.linalg.norm(row.astype(np.float64)):.6g}: {first}{', …' if len(row) > _SHOWN else ''}")
    if not finite:
        why = "; record the stages before it with --taps" if source is None else f": {in_option_words(source)}"
        typer.echo(f"NaN or Inf in the embedding{why}")


def report_generation(
    compiled: CompiledModel, run_plan: RunPlan, generated: Sequence[int], ended_by: str | None, text: str, json: bool
) -> None:
    """How a generation ended; its text has been printed."""
    if json:
        target = compiled.artifact.target_name
        _print_json({"tokens": list(run_plan.tokens), "target": target, "generated": list(generated), "ended_by": ended_by, "text": text})
        return
    if is_quiet():
        return
    count = len(generated)
    typer.echo(f"{count} token{'' if count == 1 else 's'}, ended by {ended_by}", err=True)


def _print_json(document: dict[str, Any]) -> None:
    import json as json_module  # noqa: PLC0415

    typer.echo(json_module.dumps(document_in_option_words(document), indent=1, allow_nan=False))
