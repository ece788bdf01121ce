"""Ops without operands: what a run is given, weights, which stay in the model file, what a trace holds, what comes from elsewhere."""

from __future__ import annotations

import re

from aprgraph.graph.block_formats import BLOCK_FORMATS, find_format
from aprgraph.graph.checkpoint_formats import checkpoint_format
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Attrs, Op, Types, require
from aprgraph.graph.ops.traits import Role, Traits

#: The part of a weight that is one number of each block: what is added to all elements of it.
MINIMA = "minima"


def _declared(_types: Types, attrs: Attrs) -> TensorType:
    dims, dtype = attrs["dims"], str(attrs["dtype"])
    if not isinstance(dims, tuple) or not dims or not all(type(dim) is int and dim > 0 for dim in dims):
        raise GraphError(f"dims is {dims!r}, expected a list of whole numbers above 0")
    fmt = find_format(dtype.upper())
    if fmt is None or dtype != dtype.lower():
        raise GraphError(f"dtype is {dtype!r}, expected one of {', '.join(BLOCK_FORMATS).lower()}")
    require(not attrs.get("scale") or fmt.is_decoded_when_bound, f"a weight of {dtype} has the scale {attrs.get('scale')!r}, expected none")
    require(dims[-1] % fmt.elements == 0, f"rows have {dims[-1]} elements, expected a multiple of {fmt.elements} for {dtype}")
    layout = str(attrs.get("layout", ""))
    part = str(attrs.get("part", ""))
    if part:
        require(part == MINIMA, f"part is {part!r}, expected {MINIMA}")
        require(fmt.minimum is not None and not layout, f"blocks of {layout or dtype} have no minima")
        return TensorType("f32", (*dims[:-1], dims[-1] // fmt.elements))
    if not layout:
        return TensorType(dtype, dims)
    held = checkpoint_format(layout.upper())
    if held is None or layout != layout.lower():
        raise GraphError(
            f"layout is {layout!r}, expected mxfp4_pairs, or such as bf16_columns, f8_e4m3_tensor, f8_e4m3_row, f8_e4m3_128x128"
        )
    require(len(dims) > 1, f"dims is {dims!r}, expected at least two for the layout {layout}")
    require(dims[-1] % held.elements == 0, f"rows have {dims[-1]} elements, expected a multiple of {held.elements} for {layout}")
    return TensorType(layout, dims)


INPUT = Op(
    "input",
    "Something a run is given: token ids or positions, one per position of the pass.",
    (),
    infer=lambda _types, _attrs: TensorType("i32", ("n",)),
    traits=Traits(role=Role.INPUT),
)

WEIGHT = Op(
    "weight",
    "A tensor of the model file, in the file's own blocks. `tensor` is its name in the file, dims are elements. If `scale` names another "
    "tensor, what is decoded is multiplied by that: one number, or one for each expert. `layout` is the format that the file has it in, "
    "where its scales are a tensor of their own, or its matrices lie column by column; the type is then of that format, and `dtype` what "
    "the weight is in GGUF. The `part` minima is not the elements, but of each block in [rows, blocks of a row] what is added to all of "
    "them.",
    (),
    infer=_declared,
    attrs={"tensor": str, "dtype": str, "dims": tuple, "scale": str, "layout": str, "part": str},
    defaults={"scale": "", "layout": "", "part": ""},
    traits=Traits(role=Role.WEIGHT),
)

_TYPE = re.compile(r"f32\[((?:n|t|[1-9]\d*)(?:, (?:n|t|[1-9]\d*))*)\]")


def _typed(_types: Types, attrs: Attrs) -> TensorType:
    match = _TYPE.fullmatch(str(attrs["type"]))
    if match is None:
        raise GraphError(f"type is {attrs['type']!r}, expected such as 'f32[n, 576]'")
    return TensorType("f32", tuple(int(dim) if dim.isdigit() else dim for dim in match[1].split(", ")))


RECORDED = Op(
    "recorded",
    "A tensor that a trace recorded: in a replay it stands where the tensor that the model would have computed is read.",
    (),
    infer=_typed,
    attrs={"type": str},
    traits=Traits(role=Role.RECORDED),
)

RECEIVED = Op(
    "received",
    "A value that another part of a split graph computed: it stands where that value is read.",
    (),
    infer=_typed,
    attrs={"type": str},
    traits=Traits(role=Role.RECEIVED),
)
