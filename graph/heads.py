"""Heads of q, k or v in the columns of a node."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Heads:
    """Heads of q, k or v: ``count`` heads of ``size`` elements each, in the columns of a node.

    They are the columns of the node ``value`` from ``start`` on. ``name`` is "q", "k" or "v".
    """

    value: str
    start: int
    count: int
    size: int
    name: str

    def named(self, name: str) -> Heads:
        """The same heads as something else."""
        return replace(self, name=name)

    @property
    def columns(self) -> int:
        """How many columns all heads take together."""
        return self.count * self.size
