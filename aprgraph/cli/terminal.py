"""Text of files on its way to a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with what a terminal takes for line ends and commands as escapes: a file's own text may hold them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def one_line(value: object, longest: int = 160) -> str:
    """A value, or the values of a list, in one line of at most ``longest`` characters."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return printable(text if len(text) <= longest else f"{text[: longest - 3]}...")
