"""What a reading is: steps that bring a recorded tensor into the form of the stage table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aprgraph.runtime.trace.aprt import F32

#: Kinds of steps that change numbers, and not only their places.
_CHANGES = ("mask", "factor", "softmax", "log-softmax", "shift", "best-alone")


@dataclass(frozen=True)
class Restoration:
    """One step. ``words`` say how the tensor was recorded, ``restore`` undoes it: f32 of the stage's shape to f32 of that shape.

    ``transparent``: what reads the tensor cannot tell, because it does not look there or does not depend on it. ``certain``: it can be
    nothing but the recording, whatever reads the tensor.
    """

    name: str
    words: str
    restore: Callable[[F32], F32]
    transparent: bool = False
    certain: bool = False


@dataclass(frozen=True)
class Reading:
    """The steps under which a recorded tensor is what it should be, in the order in which they are undone."""

    steps: tuple[Restoration, ...]

    @property
    def name(self) -> str:
        """A short name of the kind, for grouping: "axes", "mask", "factor + mask"."""
        return " + ".join(step.name for step in self.steps)

    @property
    def words(self) -> str:
        """How the tensor was recorded."""
        return ", ".join(step.words for step in self.steps)

    @property
    def transparent(self) -> bool:
        """Whether what reads the tensor gives the same either way."""
        return all(step.transparent for step in self.steps)

    @property
    def certain(self) -> bool:
        """Whether it can be nothing but the recording."""
        return all(step.certain for step in self.steps)

    @property
    def only_regroups(self) -> bool:
        """Whether elements change places alone."""
        return not any(step.name in _CHANGES for step in self.steps)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of its steps."""
        return frozenset(step.name for step in self.steps)

    @property
    def is_row_order(self) -> bool:
        """Whether it is of the order of the rows of q and k, and of nothing that changes a number."""
        return self.has("rows") and self.only_regroups

    def has(self, name: str) -> bool:
        """Whether one of the steps is of the kind ``name``."""
        return any(step.name == name for step in self.steps)

    def restore(self, recorded: F32) -> F32:
        """The tensor in the form of the stage table, in the shape of ``recorded``."""
        for step in self.steps:
            recorded = step.restore(recorded)
        return recorded
