"""How the page writes numbers."""

from __future__ import annotations

from collections.abc import Iterable


def signed(value: float) -> str:
    """A tensor's element, or the edge of a bin: ``-1.07e+03``, ``0.25``."""
    return f"{value:.3g}"


def dims(shape: Iterable[int] | None) -> str:
    """``7 × 576``."""
    return " × ".join(map(str, shape or ()))


def place(value: float) -> str:
    """A coordinate of a drawing, without digits that nobody sees."""
    return f"{value:.1f}".removesuffix(".0")
