"""The conventions of recording that are known, each declared once, where it is recognised: what it is of, and its docstring."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_F = TypeVar("_F", bound=Callable[..., object])
_DECLARED: list[tuple[str, str]] = []


def convention(of: str) -> Callable[[_F], _F]:
    """Declare what a function recognises of the tensors ``of``, as its docstring says it."""

    def declare(function: _F) -> _F:
        _DECLARED.append((of, " ".join((function.__doc__ or "").split())))
        return function

    return declare


def known_conventions() -> list[tuple[str, str]]:
    """Of which tensors each convention is, and its words: what ``known_mistakes`` is of mistakes."""
    return list(_DECLARED)
