"""The command line. Commands lie one a file; nothing heavy is imported until a command runs."""

from aprgraph.cli.app import main

__all__ = ["main"]
