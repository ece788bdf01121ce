"""Options that several commands share."""

from __future__ import annotations

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
Layers = Annotated[
    str,
    typer.Option("--layers", metavar="A..B", help="Layers to save, B exclusive. Whole-model stages are saved whenever they are named."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
