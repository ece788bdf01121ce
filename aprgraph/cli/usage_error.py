"""What the command line cannot parse, in one line, as all other errors: what was wrong, and where to read what is right."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

#: What typer raises where it cannot parse, and all that it says itself. typer has click inside since 0.26, and used the package before.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
PARSING_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
_TOO_MUCH = " is more than it takes"
#: The parser's sentences, and what is said in place of them.
_WORDS = (
    (r"No such option: (\S+)(?: \(Possible options: (.*)\))?", r"there is no option \1"),
    (r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", rf"\1{_TOO_MUCH}"),
    (r"Missing (?:argument|option|parameter) '([^']*)'", r"\1 is missing"),
    (r"Missing (?:argument|option|parameter) '([^']*)'. Choose from: (.*)", r"\1 is missing, expected one of \2"),
    (r"Invalid value for '?([^:']*)'?: (.*)", r"\1: \2"),
    (r"(.*): '[^']*' is not a valid (?:integer|int)(?: range)?", r"\1: expected a whole number"),
    (r"(.*): '[^']*' is not a valid float(?: range)?", r"\1: expected a number"),
    (r"(.*): \S+ is not in the range (\S+)<=x<=(\S+)", r"\1: expected \2 to \3"),
    (r"(.*): \S+ is not in the range x>=(\S+)", r"\1: expected at least \2"),
    (r"(.*): \S+ is not in the range x<=(\S+)", r"\1: expected at most \2"),
    (r"Option '(\S+)' requires an argument", r"\1 needs a value"),
    (r"Option '(\S+)' does not take a value", r"\1 takes no value"),
)
_OPTION = re.compile(r"No such option: (\S+)")
_COMMAND = re.compile(r"No such command '(.*?)'.*")
_NAMED = 4


def show(error: Any, root: Any) -> int:
    """Say on stderr what ``error``, a PARSING_ERROR of the command ``root``, has against a command line; returns the exit code.

    What a command without arguments prints, its help, is printed as it is.
    """
    from aprgraph.cli.terminal import printable, say_error  # noqa: PLC0415

    own = getattr(type(error), "show", None)
    if not isinstance(error, _USAGE_ERROR) or own is not _USAGE_ERROR.show:
        error.show()
    else:
        context, commands = getattr(error, "ctx", None), getattr(root, "commands", {})
        given = next((word for word in sys.argv[1:] if word in commands), None)
        command = context.command_path if context is not None else " ".join(filter(None, ("aprgraph", given)))
        parser = None if context is None else context.command
        say_error(f"error: {printable(_said(error.format_message(), parser, commands))}; see `{command} --help`")
    return int(error.exit_code)


def _said(message: str, parser: Any, commands: Mapping[str, Any]) -> str:
    """The parser's ``message`` in the words of this program. ``parser`` is the command that parsed, or the group of commands."""
    from aprgraph.graph.near_names import did_you_mean_one_of  # noqa: PLC0415

    inside = getattr(parser, "commands", {})
    options = [name for parameter in getattr(parser, "params", ()) for name in getattr(parameter, "opts", ())]
    message = " ".join(message.split()).removesuffix(".")
    if (unknown := _COMMAND.fullmatch(message)) is not None:
        return f"there is no command {unknown[1]!r}{did_you_mean_one_of(unknown[1], inside)}{_what_is(unknown[1])}"
    said = message
    for pattern, words in _WORDS:
        said = re.sub(f"^{pattern}$", words, said)
    if said.endswith(_TOO_MUCH) and getattr(parser, "name", None) == "run":
        said += "; a prompt goes behind --prompt"
    elif said.endswith(_TOO_MUCH) and "--model" in options:
        said += "; a model goes behind --model"
    if (option := _OPTION.match(message)) is not None:
        takers = list(_takers(option[1], commands))
        if takers and len(takers) <= _NAMED:
            said += f" here; {_joined(takers)} {'takes' if len(takers) == 1 else 'take'} it"
        else:
            said += did_you_mean_one_of(option[1], options)
    return said[:1].lower() + said[1:] if said[1:2].islower() else said


def _what_is(word: str) -> str:
    """What lies at the path that was given in place of a command, and what takes it; empty where nothing does, or nobody knows."""
    from aprgraph.graph.sources.path_kind import TAKEN, kind_of_path  # noqa: PLC0415
    from aprgraph.option_words import in_option_words  # noqa: PLC0415

    kind = kind_of_path(Path(word))
    return f"; {word} is {kind.what}: {in_option_words(kind.advice)}" if kind is not None and kind.name in TAKEN else ""


def _takers(option: str, commands: Mapping[str, Any]) -> Iterator[str]:
    """The commands that have an option of this name."""
    for name, command in commands.items():
        if any(option in getattr(parameter, "opts", ()) for parameter in getattr(command, "params", ())):
            yield f"`aprgraph {name}`"


def _joined(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
