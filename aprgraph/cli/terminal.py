"""Text on its way to a terminal. Whatever a command prints passes here: names and texts of files may hold what a terminal obeys.

Escaped is what moves the cursor, changes colours, sets titles or pastes (C0, DEL, C1), what turns the order of letters around (U+202A to
U+202E, U+2066 to U+2069), what some terminals take for line ends (U+2028, U+2029), and lone surrogates, also where the output is a pipe:
it may end in a terminal. Line ends and tabs are kept. JSON holds none of these, since it escapes them itself; drawings and graph texts
are data, and go to a file or a pipe as they are.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def printable(text: str) -> str:
    """``text`` in one line, with whatever is no letter, number, sign or space as escapes."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def one_line(value: object, longest: int = 160) -> str:
    """A value, or the values of a list, in one line of at most ``longest`` characters."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return printable(text if len(text) <= longest else f"{text[: longest - 3]}...")


def harmless(text: str) -> str:
    """``text`` with what a terminal obeys as escapes; lines stay lines."""
    return _OBEYED.sub(lambda found: _escape(found[0]), text)


class TerminalStream:
    """A text stream to which whatever is written is ``harmless``; ``raw`` is the stream itself.

    It has no ``buffer``, which click would write to in place of it.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write ``text``; returns how many characters it has."""
        self.raw.write(harmless(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "raw"):
            raise AttributeError(name)
        return getattr(self.raw, name)


@contextlib.contextmanager
def harmless_streams() -> Iterator[None]:
    """While it is open, stdout and stderr are harmless, and write what their encoding has no character for as escapes."""
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, TerminalStream(stream))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def say_error(text: str) -> None:
    """Print the last line of a command that fails on stderr. Where nothing takes it (a full disk), its exit code tells all the same."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # What is left in the stream would fail again when Python ends, with an exit code of its own.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def echo_data(text: str) -> None:
    """Write ``text``, which a program reads, to standard output: as it is, unless that is a terminal."""
    stream = sys.stdout
    if not isinstance(stream, TerminalStream) or stream.isatty():
        typer.echo(text, nl=False)
        return
    stream.raw.write(text)
    stream.raw.flush()


class _Harmless:
    """What a Console renders, its text harmless; colours and movements are the Console's own."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment  # noqa: PLC0415

        for text, style, control in console.render(self._renderable, options):
            yield Segment(text if control else harmless(text), style, control)


def harmless_console(stream: TextIO, **options: Any) -> Console:
    """A Console of rich on stdout or stderr. What it shows live, such as a bar, has to be made printable before."""
    from rich.console import Console, RenderHook  # noqa: PLC0415

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [_Harmless(renderable) for renderable in renderables]

    console = Console(file=getattr(stream, "raw", stream), **options)
    console.push_render_hook(Hook())
    return console
