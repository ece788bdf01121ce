"""What is left of a row of activations above a bound by its mean and its deviation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, number, require, width
from aprgraph.graph.ops.traits import Traits


def of_sample(attrs: Attrs) -> bool:
    """Whether the variance is the sum of squares divided by one less than their number."""
    return bool(attrs.get("sample", False))


def _gaussian_top_k(types: Types, attrs: Attrs) -> TensorType:
    columns = width(activation(2, types[0], "x")[1], "columns of x")
    require(columns > of_sample(attrs), f"x is {types[0]}, expected more columns for the variance of a sample")
    return types[0]


def _gaussian_top_k_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    (x,) = operands
    bound = x.mean(-1, keepdims=True) + number(attrs, "factor") * x.std(-1, keepdims=True, ddof=int(of_sample(attrs)))
    return np.asarray(np.maximum(x - bound, 0.0))


GAUSSIAN_TOP_K = Op(
    "gaussian_top_k",
    "max(x - mean - factor · deviation, 0), of each row's own mean and standard deviation: the largest elements of a normal "
    "distribution, without sorting (Spark Transformer, arXiv:2506.06644). The variance is the mean of the squares, or with `sample` their "
    "sum divided by one less than their number: x [n, C] -> [n, C].",
    ("x",),
    infer=_gaussian_top_k,
    reference=_gaussian_top_k_reference,
    attrs={"factor": float, "sample": bool},
    defaults={"sample": False},
    numbers={"factor": None},
    traits=Traits(is_rowwise=True),
)
