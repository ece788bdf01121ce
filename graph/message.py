"""A sentence for people in which arguments, options and commands are named as its reader writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

from aprgraph.graph.arguments import Argument

if TYPE_CHECKING:  # Python 3.10 has no Self
    from typing_extensions import Self

#: How somebody writes an argument: ``str`` as a Python program does, ``option_words`` as the command line does.
Words = Callable[[Argument], str]


class Message(str):
    """A text put together from ``parts``: strings, Arguments, and the parts of other Messages.

    As a string it names each Argument as a Python program writes it; ``text`` names them in other words. An f-string
    that a Message is put into forgets its Arguments: pass it on as a part instead.
    """

    __slots__ = ("parts",)

    parts: tuple[str | Argument, ...]

    def __new__(cls, *parts: str | Argument) -> Self:
        """The text of all parts, without anything between them."""
        nested = chain.from_iterable(part.parts if isinstance(part, Message) else (part,) for part in parts)
        flat = tuple(part for part in nested if part != "")
        message = super().__new__(cls, "".join(map(str, flat)))
        message.parts = flat
        return message

    def __reduce__(self) -> tuple[type[Message], tuple[str | Argument, ...]]:
        """Copies, and what another process is sent, are made of the parts."""
        return type(self), self.parts

    def removeprefix(self, prefix: str, /) -> str:
        """As ``str.removeprefix``; the arguments are kept."""
        first, *rest = self.parts or ("",)
        if isinstance(first, str) and first.startswith(prefix):
            return type(self)(first.removeprefix(prefix), *rest)
        return super().removeprefix(prefix) if self.startswith(prefix) else self

    def text(self, words: Words) -> str:
        """The message with every argument in ``words``, such as an option of the command line."""
        return "".join(words(part) if isinstance(part, Argument) else part for part in self.parts)


def text_in(words: Words, text: str) -> str:
    """``text`` with its arguments in ``words``, where it is a Message; any other string as it is."""
    return text.text(words) if isinstance(text, Message) else text


def message_to_json(text: str) -> str | list[str | dict[str, Any]]:
    """``text`` for a file whose reader names the arguments in words of its own: a string, or the parts of a Message.

    A Message that names a Command cannot be read back.
    """
    if not isinstance(text, Message):
        return text
    return [asdict(part) if isinstance(part, Argument) else part for part in text.parts]


def message_from_json(document: str | list[str | dict[str, Any]]) -> Message:
    """What ``message_to_json`` was given, as a Message. Raises TypeError for what it does not write."""
    parts = [document] if isinstance(document, str) else document
    return Message(*(part if isinstance(part, str) else Argument(**part) for part in parts))


def join_messages(separator: str, texts: Iterable[str]) -> Message:
    """As ``separator.join(texts)``, with the arguments of ``texts``."""
    parts = [part for text in texts for part in (separator, text)]
    return Message(*parts[1:])
