"""Pooling: one embedding of a whole text, made of what the last layer gives for its positions (arXiv:1908.10084)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.families.base import Family
from aprgraph.graph.families.numbers import Reading, flag, number

if TYPE_CHECKING:
    from aprgraph.graph.builder import GraphBuilder

KEY = "pooling_type"
#: Dense layers behind the pooling, by slot in their order.
DENSE_SLOTS = ("dense_2", "dense_3")
#: The op of each activation that may come behind one, by its class in torch; empty for none.
ACTIVATIONS: Mapping[str, str] = {"Identity": "", "Tanh": "tanh"}
#: Under the root, so that a row of zeros stays one. torch.nn.functional.normalize divides by 1e-12 at least.
_LEAST_SQUARE = 1e-24


class Pooling(IntEnum):
    """How a text's positions become one row, by llama.cpp's number (``pooling_type``)."""

    NONE = 0
    MEAN = 1
    FIRST = 2
    LAST = 3


#: The op that does it.
OPS: Mapping[Pooling, str] = {Pooling.MEAN: "mean_rows", Pooling.FIRST: "first_row", Pooling.LAST: "last_row"}
_RANK = 4


def read_pooling(family: Family) -> Pooling:
    """What the file says of it. Raises ModelError or UnsupportedModelError."""
    value, key = family.metadata.integer(family.key(KEY), 0), family.key(KEY)
    if value == _RANK:
        raise UnsupportedModelError(
            f"{family.metadata.path}: {key} is {value}, a classifier that ranks texts; supported are 0 (none), 1 (mean), 2 (first "
            "position) and 3 (last position)"
        )
    if value not in list(Pooling):
        raise ModelError(f"{family.metadata.path}: {key} is {value}, expected 0 (none), 1 (mean), 2 (first position) or 3 (last position)")
    return Pooling(value)


def _read_activation(family: Family, slot: str) -> str:
    key = family.key(f"{slot}_activation")
    name = family.metadata.text(key, "Identity")
    if name not in ACTIVATIONS:
        where = f"{family.metadata.path}: {family.metadata.own_name(key)}"
        raise UnsupportedModelError(f"{where} is {shown(name)}; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Pooled(Family):
    """What a family needs to pool: its numbers, and the end of its graph.

    With ``pooling`` the model gives the embedding of a text and no logits, as programs do that run such files for
    embeddings. A number 0 in place of it (``--override-kv``) gives the logits, if the model has a head.
    """

    pooling: Reading[Pooling] = Reading(read_pooling)
    #: Whether the embedding is scaled to length 1. GGUF does not say it: programs do.
    normalised = flag("pooling_normalize", None, True, given="pooling")
    #: What comes behind each dense layer, an op or nothing. GGUF does not say it, and llama.cpp applies nothing.
    dense_2_activation = Reading(partial(_read_activation, slot="dense_2"), given="dense_2")
    dense_3_activation = Reading(partial(_read_activation, slot="dense_3"), given="dense_3")
    dense_2 = number("dense_2_feat_out", None, 0, least=0, given="pooling")
    dense_3 = number("dense_3_feat_out", None, 0, least=0, given="pooling")

    def pool(self, g: GraphBuilder, x: str) -> str:
        """The stages from `pooled` on, of the last norm ``x``: pooling, dense layers if the file has some, length 1."""
        y = self.behind_pooling(g, g.apply("pooled", OPS[self.pooling], x))
        return g.apply("pooled_normed", "l2_norm", y, eps=_LEAST_SQUARE, groups=1) if self.normalised else y

    def behind_pooling(self, g: GraphBuilder, y: str) -> str:
        """The dense layers, if the file has some, and their activations."""
        there = [slot for slot in DENSE_SLOTS if g.has(slot)]
        for stage, slot in zip(("pooled_up", "pooled_down")[-len(there) :], there, strict=False):
            rows: int = getattr(self, slot)
            if not rows:
                raise ModelError(f"{self.metadata.path}: has the tensor {slot}.weight, but no key {slot}_feat_out; convert the model again")
            y = g.linear(stage, y, rows, slot=slot)
            if activation := getattr(self, f"{slot}_activation"):
                y = g.apply(f"{stage}_act", activation, y)
        return y
