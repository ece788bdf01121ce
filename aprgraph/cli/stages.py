"""`aprgraph stages`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aprgraph.cli.options import Families, Ignore, Json, Override
from aprgraph.cli.tables import format_table
from aprgraph.cli.terminal import echo_data
from aprgraph.cli.verbosity import Quiet, Verbose

if TYPE_CHECKING:
    from aprgraph.graph.ir import Graph

_LETTERS = (
    "n positions in this pass, t positions attended to (t = n in a prefill), H query heads, K KV heads, D head size,\n"
    "E hidden size, F FFN size, V vocabulary, X experts, k experts used per position;\n"
    "where experts read a latent W its size, else E\n"
    "in latent attention L latent of k and v, M latent of q, R elements of a head that RoPE turns, N the others\n"
    "in recurrent layers C channels of the short convolution, G heads of q and k of size S, P heads of v of size U\n"
    "of embedding models Y size of the embedding of a text, Z size between two dense layers behind the pooling\n"
    "* an addition of this project: other programs that read APRT files may not know it"
)


def stages(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="A model, or the directory of an artifact or a trace: its own stages, with their shapes."),
    ] = None,
    json: Json = False,
    override_kv: Override = None,
    ignore: Ignore = None,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """List the stages: the names that --taps takes, in execution order.

    Example: aprgraph stages model.gguf
    """
    if model is None:
        document = _all_stages()
    else:
        from aprgraph.cli.graph_source import open_graph  # noqa: PLC0415

        document = _stages_of(open_graph(model, override_kv, ignore))
    if json:
        import json as json_module  # noqa: PLC0415

        head = {"format": "aprgraph-stages", "version": 1}
        echo_data(json_module.dumps({**head, "stages": document}, indent=1, ensure_ascii=False) + "\n")
    elif model is None:
        rows = [[_name(row), ", ".join(row["dims"]), row["where"], row["summary"]] for row in document]
        typer.echo(format_table(["stage", "shape", "where", "what it holds"], rows, fold=True))
        typer.echo(f"\n{_LETTERS}")
    else:
        rows = [
            [_name(row), ", ".join(map(str, row["dims"])), _layers(row["layers"]), row["op"], ", ".join(row["weights"])] for row in document
        ]
        typer.echo(format_table(["stage", "shape", "layers", "op", "weights"], rows, fold=True))


def _all_stages() -> list[dict[str, Any]]:
    from aprgraph.graph.stages import STAGES  # noqa: PLC0415

    where = {(True, False): "per layer", (True, True): "layer 0", (False, False): "whole model"}
    return [
        {
            "name": stage.name,
            "dims": list(stage.dims),
            "where": where[stage.per_layer, stage.first_layer_only],
            "kind": stage.kind.value,
            "summary": stage.summary,
            "addition": stage.addition,
        }
        for stage in STAGES
    ]


@dataclass(frozen=True)
class _Variant:
    """How a stage is in some of the layers."""

    stage: str
    dims: tuple[int | str, ...]
    op: str
    weights: tuple[str, ...]


def _stages_of(graph: Graph) -> list[dict[str, Any]]:
    """The stages of one model, one row for each shape and choice of block formats; ``layers`` is null for the whole model."""
    from aprgraph.graph.ops import is_weight  # noqa: PLC0415
    from aprgraph.graph.stages import STAGE_BY_NAME, execution_key  # noqa: PLC0415

    found: dict[_Variant, list[int | None]] = {}
    for node in graph.staged():
        assert node.stage is not None
        weights = tuple(str(operand.type) for operand in graph.operands(node.name) if is_weight(operand))
        found.setdefault(_Variant(node.stage, node.type.dims, node.op, weights), []).append(node.layer)

    def order(variant: _Variant) -> tuple[tuple[int, int], int]:
        layer = found[variant][0]
        return execution_key(None if layer is None else 0, variant.stage), -1 if layer is None else layer

    return [
        {
            "name": variant.stage,
            "dims": list(variant.dims),
            "layers": None if found[variant][0] is None else found[variant],
            "op": variant.op,
            "weights": list(variant.weights),
            "summary": STAGE_BY_NAME[variant.stage].summary,
            "addition": STAGE_BY_NAME[variant.stage].addition,
        }
        for variant in sorted(found, key=order)
    ]


def _name(row: dict[str, Any]) -> str:
    return f"{row['name']}{'*' if row['addition'] else ''}"


def _layers(layers: list[int] | None) -> str:
    """``0-29``, ``0, 2-5``, or ``whole model``."""
    if layers is None:
        return "whole model"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
