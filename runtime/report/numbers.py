"""How the page writes numbers."""

from __future__ import annotations

from collections.abc import Iterable


def small(value: float | None) -> str:
    """``1.24e-02``; ``0`` for exactly nothing; empty where there is no answer."""
    return "" if value is None else "0" if value == 0 else f"{value:.2e}"


def signed(value: float) -> str:
    """A tensor's element, or the edge of a bin: ``-1.07e+03``, ``0.25``."""
    return f"{value:.3g}"


def dims(shape: Iterable[int] | None) -> str:
    """``7 × 576``."""
    return " × ".join(map(str, shape or ()))


def counted(count: int, noun: str) -> str:
    """``1 tensor``, ``3,000 tensors``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[object], most: int = 12) -> str:
    """``a, b, c``, and how many more there are."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def place(value: float) -> str:
    """A coordinate of a drawing, without digits that nobody sees."""
    return f"{value:.1f}".removesuffix(".0")
