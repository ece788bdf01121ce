"""Checkpoints whose fused q, k and v lie head by head, where GGUF has all of q, then all of k, then all of v."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.decoder import Decoder


class FusedByHead(Decoder):
    """``column_order`` says in which order transformers has the columns of the projection, and with it the rows of its weight."""

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """The rows of the projection in GGUF's order."""
        order = cls.column_order(slot, config)
        return super().conversions(slot, config, what) if order is None else {slot: Conversion(rows=order)}
