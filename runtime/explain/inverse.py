"""What an operand must have been, for what was recorded behind it: of ops that can be undone, given their other operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array

#: The node, its right operands, the place of the one that is asked for, and by how much the node's value is off: by how much the
#: operand must be.
_Inverse = Callable[[Node, Sequence[Array], int, Array], Array]


def _same(_node: Node, _operands: Sequence[Array], _index: int, off: Array) -> Array:
    return off


def _over_factor(node: Node, _operands: Sequence[Array], _index: int, off: Array) -> Array:
    return off / node.attr_float("factor")


def _over_the_other(_node: Node, operands: Sequence[Array], index: int, off: Array) -> Array:
    return np.asarray(off / operands[1 - index])


def _columns(node: Node, operands: Sequence[Array], _index: int, off: Array) -> Array:
    heads = node.attr_int("heads", 1)
    whole = np.zeros((len(off), heads, operands[0].shape[1] // heads))
    whole[:, :, node.attr_int("start") : node.attr_int("stop")] = off.reshape(len(off), heads, -1)
    return whole.reshape(operands[0].shape)


def _of_joined(node: Node, operands: Sequence[Array], index: int, off: Array) -> Array:
    heads = node.attr_int("heads")
    widths = [operand.shape[1] // heads for operand in operands]
    start = sum(widths[:index])
    ours = off.reshape(len(off), heads, -1)[:, :, start : start + widths[index]]
    return ours.reshape(operands[index].shape)


def _last_row(_node: Node, operands: Sequence[Array], _index: int, off: Array) -> Array:
    whole = np.zeros(operands[0].shape)
    whole[-1:] = off
    return whole


_INVERSES: dict[str, _Inverse] = {
    "add": _same,
    "bias_add": _same,
    "expert_bias_add": _same,
    "scale": _over_factor,
    "mul": _over_the_other,
    "scale_rows": _over_the_other,
    "scale_columns": _over_the_other,
    "columns": _columns,
    "join_heads": _of_joined,
    "last_row": _last_row,
}


def operand_behind(node: Node, operands: Sequence[Array], index: int, off: Array) -> Array | None:
    """The operand ``index`` of ``node``, whose value is ``off`` by so much; None where the op cannot be undone."""
    inverse = _INVERSES.get(node.op)
    if inverse is None:
        return None
    with np.errstate(all="ignore"):
        value = np.asarray(operands[index] + inverse(node, operands, index, off))
    return value if value.shape == np.shape(operands[index]) and np.isfinite(value).all() else None
