"""Registers the commands, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from aprgraph.cli.compile import compile_command
from aprgraph.cli.diff import diff
from aprgraph.cli.graph import graph
from aprgraph.cli.inspect import inspect
from aprgraph.cli.run import run
from aprgraph.cli.stages import stages
from aprgraph.graph.errors import AprgraphError

EXIT_ERROR = 2
_EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="aprgraph",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help starts faster, pipes well, and keeps the examples' lines
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Find the first wrong tensor of a language model's forward pass.

    \b
    Example:
      aprgraph compile model.gguf                   kernels for this CPU, in model.llvm.aprg/
      aprgraph run --taps qkv_matmul --layers 0..2  two layers' projections as APRT files
      aprgraph diff trace-a/ trace-b/               where do two traces first part?
      aprgraph graph model.gguf -o model.svg        draw it
    """,
)
app.command("compile")(compile_command)
app.command()(run)
app.command()(diff)
app.command()(graph)
app.command()(inspect)
app.command()(stages)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"aprgraph {version('aprgraph')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """The console script: every AprgraphError is one line on stderr and exit code 2."""
    try:
        app()
    except AprgraphError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone (`aprgraph stages | head`); leave quietly, also when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
