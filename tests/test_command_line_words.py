"""Texts of graph, codegen, runtime and the Python API hold no words of the command line: they name Arguments (graph/arguments.py)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from aprgraph.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
COMMAND_LINE = ROOT / "aprgraph/cli"
#: File -> the words that it may hold, and why.
ALLOWED = {
    "graph/export/html_page.py": {"aprgraph graph"},  # what the page says it is, and is known by
    "aprgraph/option_words.py": {"--override-kv", "--arch", "--map"},  # where the words of the command line are
    "codegen/cuda/compiler.py": {"--threads"},  # an option of nvcc
    "runtime/diff/tolerance_table.py": {"--model", "--profile", "--tol", "aprgraph diff"},  # text of docs/tolerances.md
}


def _words() -> re.Pattern[str]:
    """Matches ``--taps`` and ``aprgraph run``, of all options and commands that there are."""
    options, commands, left = set(), [], [typer.main.get_command(app)]
    while left:
        below = getattr(left.pop(), "commands", {})
        commands += below
        left += below.values()
        options |= {option for command in below.values() for one in command.params for option in one.opts if option.startswith("--")}
    return re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(options))})(?![\w-])|\baprgraph (?:{'|'.join(commands)})\b")


WORDS = _words()


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The strings of a file, and the parts of f-strings, with their lines; without docstrings, which no message holds."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def _found(text: str) -> list[tuple[int, str]]:
    return [(line, match[0]) for line, string in _texts(ast.parse(text)) for match in WORDS.finditer(string)]


@pytest.mark.contract("ERR-WORDS-1")
@pytest.mark.parametrize("folder", ["graph", "codegen", "runtime", "aprgraph"])
def test_messages_hold_no_words_of_the_command_line(folder: str) -> None:
    paths = sorted(path for path in (ROOT / folder).rglob("*.py") if not path.is_relative_to(COMMAND_LINE))
    assert len(paths) > 20
    found = {path.relative_to(ROOT).as_posix(): _found(path.read_text(encoding="utf-8")) for path in paths}
    wrong = [f"{name}:{line}: {word}" for name, words in found.items() for line, word in words if word not in ALLOWED.get(name, ())]
    assert not wrong, "name an Argument of graph/arguments.py, so that each front has its own words"
    needless = [name for name in ALLOWED if name.startswith(f"{folder}/") and ALLOWED[name] != {word for _, word in found[name]}]
    assert not needless


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise E('give --tokens')", ["--tokens"]),
        ("note = f'{a}: `aprgraph check {b}`, or --override-kv {c}=1'", ["aprgraph check", "--override-kv"]),
        ("def f():\n    '''What --tokens is.'''", []),
        ("a = 'aprgraph reads GGUF', '--tokenswise', 'a--tokens'", []),
    ],
)
def test_what_such_words_are(text: str, words: list[str]) -> None:
    assert [word for _, word in _found(text)] == words
