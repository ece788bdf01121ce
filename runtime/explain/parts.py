"""The part of a wrong tensor that is wrong: some positions, heads, columns, or the choices of some experts, where all else is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array, traits_of
from aprgraph.graph.words import joined, listed, plural
from aprgraph.runtime.explain.extent import axis_errors
from aprgraph.runtime.explain.site import Around
from aprgraph.runtime.readings.layout import layout_of

#: Of fewer elements any mistake with a number that was solved for would be one.
_LEAST = 6
_NAMED = 4
#: An expert whose error is below this part of the largest one's is right.
_RIGHT = 1e-6


@dataclass(frozen=True)
class Part:
    """The elements that are wrong: ``words`` follow those of a mistake, ``mask`` is bool of the tensor's shape."""

    words: str
    mask: Array


def parts_of(node: Node, recorded: Array, due: Array, around: Around) -> Iterator[Part]:
    """The parts that hold all that is wrong of a tensor, and are not all of it."""
    if traits_of(node).chooses or recorded.shape != due.shape or not np.isfinite(due).all():
        return
    found = (_experts(node, recorded, due, around), _axes(node, recorded, due, around))
    yield from (part for part in found if part is not None and _LEAST <= part.mask.sum() < part.mask.size)


def _axes(node: Node, recorded: Array, due: Array, around: Around) -> Part | None:
    """The wrong indices of each axis together."""
    axes = layout_of(around.graph, node, due.shape).axes
    sizes = [size for _, size in axes]
    mask, words = np.ones(sizes, bool), []
    errors = iter(axis_errors(axes, recorded, due))
    for axis, size in enumerate(sizes):
        if size < 2:
            continue
        of_axis = next(errors, None)
        if of_axis is not None and 0 < len(of_axis.wrong) < size:
            is_wrong = np.isin(np.arange(size), of_axis.wrong)
            mask &= is_wrong.reshape([size if other == axis else 1 for other in range(len(sizes))])
            words.append(of_axis.places)
    return Part(f"at {joined(words)} alone", mask.reshape(due.shape)) if words else None


def _experts(node: Node, recorded: Array, due: Array, around: Around) -> Part | None:
    """Everything of some experts, of a tensor with a row for each choice."""
    choice = next((one for one in around.graph if one.layer == node.layer and traits_of(one).chooses), None)
    ids = None if choice is None else around.value(choice.name)
    if ids is None or due.ndim != 3 or ids.shape != due.shape[:2] or np.isnan(ids).any():
        return None
    off = np.square(recorded - due).sum(axis=-1)
    experts = np.unique(ids)
    energy = np.array([off[ids == expert].sum() for expert in experts])
    wrong = experts[~(energy <= _RIGHT * energy.max())]
    named = listed(map(int, wrong), _NAMED)
    mask = np.broadcast_to(np.isin(ids, wrong)[..., None], due.shape)
    return Part(f"of {plural(wrong.size, 'expert')} {named} alone", mask)
