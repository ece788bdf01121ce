"""A verdict in parts that a reader scans: what came out, where, whose fault, why, what to do next, and what else to know.

The same parts are shown by the terminal, pages, notebooks, failing tests and JUnit files; each names arguments in its own words.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from aprgraph.graph.arguments import Again, Command
from aprgraph.graph.message import Message, Words, text_in
from aprgraph.graph.words import plain

#: Columns of the labels.
LABEL = 7
#: Columns of a text that nobody says the width of.
_WIDTH = 80


@dataclass(frozen=True)
class Summary:
    """``outcome`` is one short sentence; each part is lines without a full stop, none where there is nothing to say.

    ``where``: what differs or is wrong first, and by how much. ``whose``: which side is wrong, or why that is not known.
    ``why``: the mistake that fits, or that none does, and where it lies then. ``next``: what to do, and a command on a line of its own.
    ``notes``: what was not compared, was assumed, or is read otherwise.
    """

    outcome: str
    where: tuple[str, ...] = ()
    whose: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    next: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(``WHERE``, its lines) and so on, in order, of those that say something."""
        named = ((one.name.upper(), getattr(self, one.name)) for one in fields(self) if one.name != "outcome")
        return tuple((name, lines) for name, lines in named if lines)

    @property
    def for_others(self) -> Summary:
        """The parts for a page, which others read too: without a command that is to be given once more, for they gave none."""
        again = any(isinstance(part, Again) for line in self.next if isinstance(line, Message) for part in line.parts)
        return replace(self, next=()) if again else self

    def lines(self, width: int | None = None, words: Words = str) -> list[str]:
        """The parts as lines of text, each label before its first line; as long as they are, or wrapped at ``width`` columns."""
        return [line for name, part in self.parts for line in _labelled(name, part, width, words)]

    def text(self, width: int | None = None, words: Words = str) -> str:
        """The outcome, and the ``lines`` below it."""
        return "\n".join([*wrapped(text_in(words, self.outcome), width), *self.lines(width, words)])

    def __str__(self) -> str:
        """The ``text`` in lines of 80 columns, as a Python program names arguments."""
        return self.text(_WIDTH)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, without what is next: that is a command of whoever asked, and the same finding is to have the same document."""
        told = [one.name for one in fields(self) if one.name not in ("outcome", "next")]
        return {"outcome": self.outcome, **{name: list(getattr(self, name)) for name in told}}


def is_command(line: str) -> bool:
    """Whether a line is a command and nothing else: it is copied, and so stays in one piece."""
    return isinstance(line, Message) and len(line.parts) == 1 and isinstance(line.parts[0], Command)


def wrapped(text: str, width: int | None, first: str = "", rest: str = "") -> list[str]:
    """``text`` in one line, or in lines of ``width`` columns, with ``first`` and ``rest`` before the first and the others."""
    text = plain(text)
    if width is None:
        return [first + text]
    own = text[: len(text) - len(text.lstrip())]  # a line that is indented goes on so
    first, rest = first + own, rest + own
    broken = textwrap.wrap(
        text.lstrip(), width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    return broken or [first.rstrip()]


def _labelled(name: str, part: Sequence[str], width: int | None, words: Callable[..., str]) -> list[str]:
    found: list[str] = []
    for line in part:
        first = " " * LABEL if found else name.ljust(LABEL)
        found += wrapped(text_in(words, line), None if is_command(line) else width, first, " " * (LABEL + 2))
    return found
