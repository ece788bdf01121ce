"""Registers the commands, and turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from aprgraph.cli.audit import audit
from aprgraph.cli.bisect import bisect
from aprgraph.cli.cache import cache_commands
from aprgraph.cli.check import check
from aprgraph.cli.compile import compile_command
from aprgraph.cli.completion import completion
from aprgraph.cli.contracts import contracts
from aprgraph.cli.diff import diff
from aprgraph.cli.graph import graph
from aprgraph.cli.inspect import inspect
from aprgraph.cli.internal_error import report_defect
from aprgraph.cli.models import models
from aprgraph.cli.run import run
from aprgraph.cli.settings import default_map, find_settings
from aprgraph.cli.short_of_memory import why_short_of_memory
from aprgraph.cli.stages import stages
from aprgraph.cli.sweep import sweep
from aprgraph.cli.terminal import harmless_streams, printable, say_error
from aprgraph.cli.trust import trust
from aprgraph.cli.usage_error import PARSING_ERROR, show
from aprgraph.cli.verbosity import command_said, note_unless_quiet
from aprgraph.cli.weights import weights
from aprgraph.graph.errors import AprgraphError, GraphError
from aprgraph.option_words import option_words

EXIT_ERROR = 2

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
      aprgraph check model.gguf                     is the file sound?
      aprgraph compile model.gguf                   kernels for this CPU, in model.llvm.aprg/
      aprgraph run --taps qkv_matmul --layers 0..2  two layers' projections as APRT files
      aprgraph diff trace-a/ trace-b/               where do two traces first part?
      aprgraph audit trace-b/ --model model.gguf    where is one trace wrong?
      aprgraph graph model.gguf -o model.svg        draw it
      aprgraph weights model.gguf other.gguf        are these two the same model?
    """,
)
#: The commands, each with what the list of them says of it: whole, in a terminal of 80 columns.
_COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "check": (check, "Say what is wrong with a model file, before anybody runs it."),
    "compile": (compile_command, "Compile a model's kernels into an artifact directory."),
    "run": (run, "Run a model on a prompt, record tensors, generate text."),
    "diff": (diff, "Compare two traces: where they part, and which is wrong."),
    "audit": (audit, "Check one trace against the model: where it is wrong."),
    "bisect": (bisect, "Find the first stage at which two targets differ."),
    "sweep": (sweep, "Run and audit many prompts, models and targets."),
    "graph": (graph, "Print or draw a model's graph, or what two traces part at."),
    "inspect": (inspect, "Say what a file or directory is, and what is in it."),
    "stages": (stages, "List the stages, the names that --taps takes."),
    "models": (models, "List the model families and block formats there are."),
    "weights": (weights, "Say whether two model files hold the same model."),
    "trust": (trust, "Let the machine code of somebody else's artifact run."),
    "completion": (completion, "Print the script that completes words in a shell."),
    "contracts": (contracts, "List what must hold, and the tests that would show it."),
}
for _name, (_command, _summary) in _COMMANDS.items():
    app.command(_name, short_help=_summary)(_command)
app.add_typer(cache_commands, name="cache", short_help="List what the cache of kernels holds, or clear it.")


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"aprgraph {version('aprgraph')}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    from aprgraph.cli.lost_pages import lost_pages_are_errors  # noqa: PLC0415

    context.with_resource(command_said())
    context.with_resource(lost_pages_are_errors())
    found = find_settings(Path.cwd())
    command = context.invoked_subcommand
    if found is not None and command is not None:
        file, table = found
        commands = getattr(context.command, "commands", {})
        context.default_map = {command: default_map(commands, command, file, table)}
        if context.default_map[command]:
            note_unless_quiet(f"options that are not given are those of [tool.aprgraph] in {file}")


def run_command() -> None:
    """What the console script runs: every AprgraphError is one line on stderr and exit code 2, a defect of our own one and 70."""
    # `aprgraph stages | head -1` ends as other programs do there. As an exception it would be exit 1, which is diff's "diverged".
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for name in ("stdout", "stderr"):  # closed by the shell (>&-)
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 -- until the process ends
    with harmless_streams():
        _run()


def _run() -> None:
    try:
        code = app(standalone_mode=False, prog_name="aprgraph")
        if isinstance(code, int) and code:
            sys.exit(code)
    except PARSING_ERROR as error:
        sys.exit(show(error, typer.main.get_command(app)))
    except typer.Abort:  # the end of standard input where something was asked
        say_error("error: nothing was answered, and nothing was done")
        sys.exit(EXIT_ERROR)
    except AprgraphError as error:
        # File names may hold line ends. What breaks the verifier, a defect of our own, is shown with the graph that it left.
        text = error.text(option_words)
        text = text if isinstance(error, GraphError) else printable(text)
        say_error(f"error: {text}")
        sys.exit(EXIT_ERROR)
    except OSError as error:  # what the system refused and no one foresaw; a defect of our own would be another exception
        if error.errno == errno.ENOMEM:
            _end_short_of_memory(why_short_of_memory(error) or "")
        say_error(f"error: {'' if error.filename is None else f'{printable(str(error.filename))}: '}{error.strerror or error}")
        sys.exit(EXIT_ERROR)
    except Exception as error:  # noqa: BLE001 -- whatever no one foresaw
        short = why_short_of_memory(error)
        if short is None:
            sys.exit(report_defect(error))
        _end_short_of_memory(short)


def _end_short_of_memory(short: str) -> NoReturn:
    what = f": {printable(short)}" if short else ""
    say_error(f"error: not enough memory{what}; free some, or give less to do: a shorter prompt, fewer layers")
    sys.exit(EXIT_ERROR)
