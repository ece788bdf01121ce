"""Ops without operands: what a run is given, and the weights, which stay in the model file."""

from __future__ import annotations

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Attrs, Op, Types


def _declared(_types: Types, attrs: Attrs) -> TensorType:
    dims = attrs["dims"]
    if not isinstance(dims, tuple):
        raise GraphError(f"dims is {dims!r}, expected a tuple of whole numbers")
    return TensorType(str(attrs["dtype"]), dims)


INPUT = Op(
    "input",
    "Something a run is given: token ids or positions, one per position of the pass.",
    (),
    infer=lambda _types, _attrs: TensorType("i32", ("n",)),
)

WEIGHT = Op(
    "weight",
    "A tensor of the model file, in the file's own blocks. `tensor` is its name in the file, dims are elements.",
    (),
    infer=_declared,
    attrs={"tensor": str, "dtype": str, "dims": tuple},
)
