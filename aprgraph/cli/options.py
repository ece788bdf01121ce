"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Override = Annotated[
    list[str] | None,
    typer.Option(
        "--override-kv",
        metavar="KEY=TYPE:VALUE",
        help="Replace a metadata key, in llama.cpp's syntax (TYPE int, float, bool or str), such as "
        "llama.rope.freq_base=float:10000. Repeatable.",
    ),
]


def _load_families(files: list[Path] | None) -> list[Path] | None:
    if files:
        from aprgraph.graph.families import load_family_file  # noqa: PLC0415

        for file in files:
            load_family_file(file)
    return files


Families = Annotated[
    list[Path] | None,
    typer.Option(
        "--family",
        metavar="FILE.py",
        callback=_load_families,
        is_eager=True,
        help="Run a Python file that declares a model family (docs/families.md), for models of its architecture. Repeatable.",
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="REGEX",
        help="Leave out the tensors, and the model's metadata keys, whose whole name matches, where nothing here uses them. Repeatable.",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="A..B|A..|A|all",
        help="Layers to save, B exclusive. Whole-model stages are saved whenever they are named [0..1].",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Write there also where something else is than an earlier one of this program.")]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="REGEX=PLACE|@FILE",
        help=r"Where arrays of .npz, .npy, .pt and .safetensors files belong that are not called as stages are, such as "
        r"'layers\.(\d+)\.mlp=ffn_out'. The name has to match from its beginning, or from a dot or slash, to its end. The place of "
        "q alone is qkv_matmul[q], and `ignore` is that of what to leave out. @FILE takes the rules of a "
        "file, one a line, # before comments. Repeatable.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
ReplayTokens = Annotated[
    str | None,
    typer.Option(
        "--tokens", metavar="1,2,3,…", help="With a model: the prompt's token ids, for a trace whose manifest does not name them."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, max=1024, metavar="N", help="With a model: replay in N processes; results do not depend on N [in this]."
    ),
]
ReplayExecutor = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="WHERE",
        help="With a model: where the processes of --workers are: local, ray, ray://HOST:PORT, slurm:partition=NAME[,…] [local].",
        show_default=False,
    ),
]
Suggest = Annotated[bool, typer.Option("--suggest", help="Print only what to tap next: options of `aprgraph run`.")]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one page that opens offline.", show_default=False)
]
Repro = Annotated[
    Path | None,
    typer.Option(
        "--repro",
        metavar="DIR",
        help="Write the guilty stage alone: inputs, weights, expected and actual output (.npy), and a script that shows the error.",
    ),
]
Tolerance = Annotated[
    list[str] | None,
    typer.Option(
        "--tol",
        metavar="REGEX=nmse:VALUE",
        help="Set the limit of the stages whose whole name matches, such as 'ffn_.*=nmse:1e-6', or 'moe_router_indices=ids:0.05' for "
        "the share of positions that may choose other experts. May be repeated; the last that matches counts.",
        show_default=False,
    ),
]
