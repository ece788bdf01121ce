"""What a person sees while a call takes long: one line, on stderr in a terminal, below the cell in a notebook; it is gone at the end."""

from __future__ import annotations

import importlib
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
    """Whether somebody sees stderr as it is written: a terminal, or a notebook."""
    return sys.stderr is not None and (sys.stderr.isatty() or _is_notebook())


def _is_notebook() -> bool:
    return type(sys.stderr).__module__.startswith("ipykernel.")


@contextmanager
def progress_line(shown: bool | None, text: str) -> Iterator[Callable[[str], None]]:
    """Show ``text`` while the block runs; the block gets the function that says where it is: ``text: layer 3 ffn_out``.

    ``shown`` None: where somebody watches; False: never.
    """
    if not (is_watched() if shown is None else shown):
        yield lambda _where: None
        return
    line = _Cell(text) if _is_notebook() else _Line(text)
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
    """A line of a terminal: what was there is written over, and blanks at the end."""

    def __init__(self, text: str) -> None:
        self._text, self._length, self._last = text, 0, time.monotonic()
        self._show(text)

    def at(self, where: str) -> None:
        if time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self._show(f"{self._text}: {where}")

    def clear(self) -> None:
        self._show("")
        print("\r", end="", file=sys.stderr, flush=True)

    def _show(self, text: str) -> None:
        width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns - 1)
        text = plain(text)[:width]
        print(f"\r{text.ljust(self._length)}", end="", file=sys.stderr, flush=True)
        self._length = len(text)


class _Cell(_Line):
    """An output of a notebook's cell that changes, and is empty at the end: of lines on stderr a saved notebook would keep every one."""

    def __init__(self, text: str) -> None:
        display = importlib.import_module("IPython.display").display
        self._handle = display(_output(text), raw=True, display_id=True)
        super().__init__(text)

    def clear(self) -> None:
        self._show("")

    def _show(self, text: str) -> None:
        self._handle.update(_output(text), raw=True)


def _output(text: str) -> dict[str, str]:
    return {"text/plain": plain(text)}
