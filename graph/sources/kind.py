"""What messages say of a file or folder that is no model that can be traced."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileKind:
    """``name`` for programs, ``what`` with its article for sentences, ``advice`` on how to get a model that can be traced."""

    name: str
    what: str
    advice: str
