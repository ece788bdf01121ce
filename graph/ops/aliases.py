"""The types that declarations of ops are written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from aprgraph.graph.ir import Attr, TensorType

#: Values of the reference semantics: float64 for activations and decoded weights, int64 for ids and positions.
Array = npt.NDArray[Any]
Types = Sequence[TensorType]
Attrs = Mapping[str, Attr]
