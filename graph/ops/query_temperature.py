"""A temperature of the softmax that grows with the position, as a factor of the queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aprgraph.graph.ir import Attr, TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, integer, number, require
from aprgraph.graph.ops.traits import Traits

#: What an attribute is that a graph does not name.
_DEFAULTS: Mapping[str, Attr] = {"offset": 0}


def _query_temperature(types: Types, attrs: Attrs) -> TensorType:
    (positions,) = types
    require(positions.dtype == "i32" and len(positions.dims) == 1, f"positions are {positions}, expected i32[n]")
    require(integer(attrs, "span") >= 1, f"span is {attrs['span']}, expected a number of positions")
    require(integer({**_DEFAULTS, **attrs}, "offset") >= 0, f"offset is {attrs.get('offset')}, expected a number of positions")
    return TensorType("f32", (positions.dims[0], 1))


def _query_temperature_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    steps = np.floor((operands[0] + integer({**_DEFAULTS, **attrs}, "offset")) / integer(attrs, "span"))
    return np.asarray(1.0 + number(attrs, "strength") * np.log(1.0 + steps))[:, None]


QUERY_TEMPERATURE = Op(
    "query_temperature",
    "1 + strength · ln(1 + floor((position + offset) / span)), computed in float64 on every target (Nakanishi 2025, arXiv:2501.19399, in "
    "the form of Llama 4): positions [n] -> [n, 1].",
    ("positions",),
    infer=_query_temperature,
    reference=_query_temperature_reference,
    attrs={"strength": float, "span": int, "offset": int},
    defaults=_DEFAULTS,
    numbers={"strength": None, "span": None, "offset": 0},
    traits=Traits(is_rowwise=True),
)
