"""What is found of one tensor of two model files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.rows import Index
from aprgraph.runtime.weights.tensor_names import layer_and_slot


class Status(str, Enum):
    """How a tensor of A and that of B belong together, from the best to the worst."""

    IDENTICAL = "identical"  # every element is equal
    ROUNDED = "rounded"  # equal up to what the block formats round
    REORDERED = "reordered"  # in another order together with all that goes with it, so that the model computes the same
    UNTOLD = "untold"  # within what the formats round, which is as much as there is
    TRANSFORMED = "transformed"  # equal once rows, factors or names are put right
    DAMAGED = "damaged"  # equal but for some blocks or rows
    DIFFERENT = "different"
    ONLY_A = "only in A"
    ONLY_B = "only in B"


#: The tensors of one model.
SAME = (Status.IDENTICAL, Status.ROUNDED, Status.REORDERED)


@dataclass(frozen=True)
class TensorFinding:
    """``kind`` is the name of the explanation for programs, empty where there is none; ``text`` the explanation in words.

    ``summary`` is the text in words that are the same for every layer. ``formats`` are those of A and of B, ``dims`` as well;
    None on a side that lacks the tensor.
    """

    name: str
    status: Status
    formats: tuple[str | None, str | None]
    dims: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    kind: str = ""
    text: str = ""
    summary: str = ""
    measures: Measures | None = None
    #: Explanations that hold as well.
    also: tuple[str, ...] = ()
    #: By A's rows, columns or experts where they are in B, if that is the explanation.
    order: Index | None = field(default=None, compare=False, repr=False)

    @property
    def layer(self) -> int | None:
        """Its layer, if it is of one."""
        return layer_and_slot(self.name)[0]

    @property
    def slot(self) -> str:
        """Its name without the layer."""
        return layer_and_slot(self.name)[1]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; errors are those that the explanation leaves."""
        found: dict[str, Any] = {
            "name": self.name, "status": self.status.value, "kind": self.kind, "text": self.text, "also": list(self.also),
            "a": None if self.dims[0] is None else {"format": self.formats[0], "dims": list(self.dims[0])},
            "b": None if self.dims[1] is None else {"format": self.formats[1], "dims": list(self.dims[1])},
            "measures": None,
        }  # fmt: skip
        one = self.measures
        if one is not None:
            found["measures"] = {
                "nmse": one.nmse if math.isfinite(one.nmse) else None,
                "nmse_of_rounding": one.expected / one.a_squares if one.a_squares else None,
                "cosine": one.cosine, "slope": one.slope, "max_abs": one.largest,
                "blocks": one.units, "bad_blocks": one.bad_units, "bad_rows": sorted(one.bad_rows)[:1000],
                "not_finite": list(one.not_finite),
            }  # fmt: skip
        return found
