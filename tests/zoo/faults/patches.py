"""What several faults have in common: nodes that are left out, have another attribute, or read something else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aprgraph.graph.ops import Array
from tests.zoo.planting import Call, Patch


def left_out(call: Call) -> Array:
    """The first operand, as it is."""
    return call.operands[0]


def with_attrs(**attrs: object) -> Patch:
    """The same op with other attributes."""
    return lambda call: call.compute(**attrs)


def reading(index: int, what: Callable[[Call], Array]) -> Patch:
    """The operand ``index`` is something else."""
    return lambda call: call.compute([what(call) if i == index else operand for i, operand in enumerate(call.operands)])


def then(change: Callable[[Array], Array]) -> Patch:
    """The right result, changed."""
    return lambda call: change(call.compute())


def through(dtype: type[np.floating]) -> Patch:
    """The right result, stored in ``dtype``."""

    def stored(value: Array) -> Array:
        return value.astype(dtype).astype(np.float32)

    return then(stored)
