"""GELU by a table of float16, as ggml's CPU backend has it (ggml_vec_gelu_f32 of ggml-cpu/vec.h)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, require
from aprgraph.graph.ops.c_library import tanhf
from aprgraph.graph.ops.traits import Traits

#: Beyond it, the table is not asked: the result is x, or 0.
BOUND = 10.0
#: Of the polynomial inside the tanh.
COEFFICIENT, FACTOR = np.float32(0.044715), np.float32(0.79788456080286535587989211986876)


def _gelu_half(types: Types, _attrs: Attrs) -> TensorType:
    require(types[0].dtype == "f32", f"x is {types[0]}, expected f32")
    return types[0]


def _gelu_half_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x = operands[0].astype(np.float32)
    entry = x.astype(np.float16).astype(np.float32)
    half, one = np.float32(0.5), np.float32(1)
    # Compilers fuse this product and sum where the CPU can: without, one entry of 65,536 is its neighbour.
    fused = ((COEFFICIENT * entry).astype(np.float64) * entry + 1).astype(np.float32)
    inner = FACTOR * entry * fused
    found = (half * entry * (one + tanhf(inner))).astype(np.float16)
    return np.where(x <= -BOUND, 0.0, np.where(x >= BOUND, x, found)).astype(np.float64)


GELU_HALF = Op(
    "gelu_half",
    "`gelu` of x rounded to float16, and rounded to float16; 0 up to -10, x from 10 on.",
    ("x",),
    infer=_gelu_half,
    reference=_gelu_half_reference,
    traits=Traits(variant_of="gelu", is_rowwise=True),
)
