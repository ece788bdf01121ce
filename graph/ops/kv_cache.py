"""The KV cache: what lets a later pass attend to positions that earlier passes computed."""

from __future__ import annotations

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Attrs, Op, Types, activation, require
from aprgraph.graph.ops.state import Appended
from aprgraph.graph.ops.traits import Traits


def _cache(types: Types, _attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "x")
    require(rows == "n", f"x is {types[0]}, expected f32[n, columns]: the rows of this pass")
    return TensorType("f32", ("t", columns))


CACHE = Op(
    "cache",
    "The rows of earlier passes, then those of this one: x [n, C] -> [t, C]. They are its state, which belongs to the run.",
    ("x",),
    infer=_cache,
    reference=lambda operands, _attrs: operands[0],
    traits=Traits(state=Appended()),
)
