"""Text made safe for the formats that pictures are written in."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

# What XML 1.0 allows in a document (production 2, Char); the rest cannot be written even as a reference.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """``text`` with every character that XML cannot hold replaced by U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


def xml(text: str) -> str:
    """For XML text and for attributes in double quotes."""
    return escape(printable(text), {'"': "&quot;"})


def dot(text: str) -> str:
    """A DOT string, with its quotes; line breaks become DOT's own."""
    escaped = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\r", " ").replace("\n", "\\n") + '"'


def mermaid(text: str) -> str:
    """The inside of a Mermaid label in double quotes; line breaks become <br/>."""
    escaped = "".join(f"#{ord(c)};" if c in '#"&<>`\\' else c for c in printable(text))
    return escaped.replace("\r", " ").replace("\n", "<br/>")
