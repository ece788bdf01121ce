"""Text from files and manifests, for a terminal: it may hold what a terminal would obey."""

from __future__ import annotations


def plain(text: str) -> str:
    """``text`` on one line, with U+FFFD in place of every character that is not to be printed."""
    return text if text.isprintable() else "".join(character if character.isprintable() else "�" for character in text)
