"""The options of the command line by the arguments of the Python API that they give."""

from __future__ import annotations

from aprgraph.graph.arguments import Argument

#: The others are called as the argument is.
_OPTIONS = {"overrides": "--override-kv", "architectures": "--arch"}


def option_words(argument: Argument) -> str:
    """``--taps``, ``--layers 0..2``."""
    option = _OPTIONS.get(argument.name, f"--{argument.name.replace('_', '-')}")
    return option if argument.value is None else f"{option} {argument.value}"
