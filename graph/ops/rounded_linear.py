"""A rounding and the matrix product that it is for as one, as kernels for CPUs compute it: by integer dot products."""

from __future__ import annotations

from collections.abc import Sequence

from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, require
from aprgraph.graph.ops.linear import LINEAR
from aprgraph.graph.ops.traits import Traits
from aprgraph.graph.roundings import ROUNDINGS, round_values

#: Block formats whose elements are whole numbers of 8 bits times scales.
WHOLE_FORMATS = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS",
)  # fmt: skip
#: Those of which a scheme's kept sums are multiplied by the minimum of the block.
_WITH_MINIMA = ("Q4_1", "Q5_1")


def multiplies(weight: TensorType, scheme: str) -> bool:
    """Whether ``rounded_linear`` computes the product of a weight of this type with what ``scheme`` makes of x.

    Both must have blocks of one size, and what kept sums are multiplied by must be in the weight's blocks.
    """
    rounding = ROUNDINGS[scheme]
    if weight.dtype.upper() not in WHOLE_FORMATS or len(weight.dims) > 2:
        return False
    return weight_format(weight).elements == rounding.elements and (rounding.sum_errors is None or weight.dtype.upper() in _WITH_MINIMA)


def _rounded_linear(types: Types, attrs: Attrs) -> TensorType:
    scheme = str(attrs["scheme"])
    require(scheme in ROUNDINGS, f"scheme is {scheme!r}, expected one of {', '.join(ROUNDINGS)}")
    for weight in types[1:]:
        expected = f"one of {', '.join(WHOLE_FORMATS).lower()} in blocks of {ROUNDINGS[scheme].elements}"
        require(multiplies(weight, scheme), f"a weight is {weight}, and x is rounded by {scheme}, expected {expected}")
    return LINEAR.infer(types, {})


def _rounded_linear_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, *weights = operands
    rounding = ROUNDINGS[str(attrs["scheme"])]
    require(
        rounding.sum_errors is None,
        f"{rounding.name} keeps sums, which multiply minima that decoded weights do not have; interpret the graph before fuse-rounding",
    )
    assert LINEAR.reference is not None
    return LINEAR.reference([round_values(x, rounding), *weights], {})


ROUNDED_LINEAR = Op(
    "rounded_linear",
    "`linear` of `round` of x by `scheme`, with what its kept sums are off times the weights' minima (`round_sum_errors`): the pass "
    "fuse-rounding puts it there: x [n, C], W [R, C] each -> [n, sum of R].",
    LINEAR.operands,
    infer=_rounded_linear,
    reference=_rounded_linear_reference,
    attrs={"scheme": str},
    traits=Traits(weights=("weights",), is_matmul=True, multiplied="x", is_rowwise=True),
)
