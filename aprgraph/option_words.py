"""The words of the command line for the arguments of the Python API, and for what does the same in Python."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from aprgraph.graph.arguments import Again, Argument, Command
from aprgraph.graph.message import Message, text_in

#: The others are called as the argument is.
_OPTIONS = {"overrides": "--override-kv", "architectures": "--arch", "names": "--map"}


def option_words(argument: Argument) -> str:
    """``--taps``, ``--layers 0..2``, ``aprgraph check model.gguf``."""
    if isinstance(argument, Again):
        return " ".join((shlex.join(["aprgraph", *sys.argv[1:]]), *map(option_words, argument.options)))
    if isinstance(argument, Command):
        return argument.line(option_words)
    option = _OPTIONS.get(argument.name, f"--{argument.name.replace('_', '-')}")
    return option if argument.value is None else f"{option} {argument.value}"


def in_option_words(text: str) -> str:
    """``text`` as the command line prints it."""
    return text_in(option_words, text)


def document_in_option_words(document: Any) -> Any:
    """A JSON document whose strings are as the command line prints them."""
    if isinstance(document, Message):
        return in_option_words(document)
    if isinstance(document, dict):
        return {key: document_in_option_words(value) for key, value in document.items()}
    return [document_in_option_words(value) for value in document] if isinstance(document, (list, tuple)) else document
