"""The order of the rows of q and k that each file has by its kind: for RoPE, neighbours in some, halves in others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.families import Family, open_family
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.words import joined
from aprgraph.runtime.weights.head_halves import to_halves, to_neighbours
from aprgraph.runtime.weights.rows import Index
from aprgraph.runtime.weights.tensor_names import layer_and_slot

_WORDS = {"interleaved": "neighbours", "halves": "halves"}


def family_of(metadata: Metadata) -> Family | None:
    """The family with its numbers, None if it is not known or they do not make a model."""
    try:
        return open_family(metadata.with_overrides({}))
    except AprgraphError:
        return None


class RowAlignment:
    """By tensor the order in which B's rows are A's, where the two kinds of file have others: a checkpoint and its GGUF file.

    That is no difference of the models. ``sentence`` says so; empty where both have one order, or nothing is known.
    """

    def __init__(self, a: Metadata, b: Metadata) -> None:
        families = family_of(a), family_of(b)
        self._heads: Mapping[str, tuple[int, ...]] = {}
        self.sentence = ""
        if families[0] is None or families[1] is None or families[0].architecture != families[1].architecture:
            return
        orders = families[0].row_order, families[1].row_order
        # Of one family whose kinds of file agree, as with latent attention, a checkpoint's own word is no kind's order.
        if orders[0] == orders[1] or families[0].pairing == families[0].hf_pairing:
            return
        self._order = to_halves if orders[0] == "interleaved" else to_neighbours
        queries, keys = (tuple(getattr(families[1], name)) for name in ("heads", "kv_heads"))
        self._heads = {"attn_q": queries, "attn_k": keys, "attn_qkv": tuple(sum(pair) for pair in zip(queries, keys, strict=True))}
        self._values = keys
        sides = joined([f"{_WORDS[order]} in {side}" for order, side in zip(orders, "AB", strict=True)])
        self.sentence = f"RoPE pairs {sides}, as their kinds of file have it: B's rows of q and k were brought to A's order"

    def order(self, name: str, rows: int) -> Index | None:
        """By each of A's ``rows`` rows the row of B; None where they are the same."""
        layer, slot = layer_and_slot(name)
        stem, _, what = slot.partition(".")
        heads = self._heads.get(stem, ())
        if layer is None or layer >= len(heads) or what not in ("weight", "bias"):
            return None
        count = heads[layer]
        size = rows // (count + self._values[layer] if stem == "attn_qkv" else count)
        order = np.arange(rows)
        order[: count * size] = (np.arange(count)[:, None] * size + self._order(size)).reshape(-1)
        return order
