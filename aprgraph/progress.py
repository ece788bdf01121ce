"""What a person sees while a call takes long: one line on stderr, in a terminal or a notebook, which is gone at the end."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aprgraph.graph.words import bytes_text, plain

#: Seconds between two changes of the line.
_EVERY = 0.1
_LEAST_WIDTH = 20


def is_watched() -> bool:
    """Whether somebody sees stderr as it is written: a terminal, or the output of a notebook's cell."""
    stream = sys.stderr
    return stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel."))


@contextmanager
def progress_line(shown: bool | None, text: str) -> Iterator[Callable[[str], None]]:
    """Show ``text`` while the block runs; the block gets the function that says where it is: ``text: layer 3 ffn_out``.

    ``shown`` None: where somebody watches; False: never.
    """
    if not (is_watched() if shown is None else shown):
        yield lambda _where: None
        return
    line = _Line(text)
    try:
        yield line.at
    finally:
        line.clear()


@contextmanager
def progress_bytes(progress: Callable[[int], None] | bool | None, text: str) -> Iterator[Callable[[int], None] | None]:
    """``progress`` where it is a function, else one that adds up bytes on a line, as ``progress_line`` shows it."""
    if progress is not None and not isinstance(progress, bool):
        yield progress
        return
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        say(f"{bytes_text(done)} read")

    with progress_line(progress, text) as say:
        yield add


class _Line:
    """The line: what was there is written over, and blanks at the end, which every terminal and notebook can."""

    def __init__(self, text: str) -> None:
        self._text, self._length, self._last = text, 0, 0.0
        self._write(text)

    def at(self, where: str) -> None:
        if time.monotonic() - self._last >= _EVERY:
            self._write(f"{self._text}: {where}")

    def clear(self) -> None:
        self._write("")
        print("\r", end="", file=sys.stderr, flush=True)

    def _write(self, text: str) -> None:
        width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns - 1)
        text = plain(text)[:width]
        print(f"\r{text.ljust(self._length)}", end="", file=sys.stderr, flush=True)
        self._length, self._last = len(text), time.monotonic()
