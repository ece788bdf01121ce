"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits

#: Which elements of a head form a pair: (2i, 2i+1), as `llama` files order them, or (i, i + D/2), as NeoX does.
PAIRINGS = ("interleaved", "halves")


#: The ramp that scales every pair, as no scaling and linear scaling do.
EVERY_PAIR = (-1.0, 0.0)


def has_ramp(attrs: Attrs) -> bool:
    """Whether some pairs are scaled less than others, as by YaRN."""
    return (number(attrs, "ramp_start"), number(attrs, "ramp_end")) != EVERY_PAIR


def _angles(types: Types, attrs: Attrs) -> TensorType:
    positions = types[0]
    dims = integer(attrs, "dims")
    require(positions.dtype == "i32" and len(positions.dims) == 1, f"positions are {positions}, expected i32[n]")
    require(dims >= 2 and dims % 2 == 0, f"dims is {dims}, expected an even number of at least 2")
    require(number(attrs, "base") > 0, f"base is {attrs['base']}, expected a positive number")
    start, end = number(attrs, "ramp_start"), number(attrs, "ramp_end")
    require(start < end, f"the ramp goes from {start} to {end}, expected it to end after it starts")
    if len(types) > 1:
        require(types[1].dims == (dims // 2,), f"the frequency factors are {types[1]}, expected {dims // 2} elements")
        require(not weight_format(types[1]).arrives_in_blocks, f"the frequency factors are {types[1]}, expected f32, f16 or bf16")
    return TensorType("f32", (positions.dims[0], dims))


def _angles_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    dims = integer(attrs, "dims")
    frequencies = number(attrs, "base") ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    start, end = number(attrs, "ramp_start"), number(attrs, "ramp_end")
    scaled = np.clip((np.arange(dims // 2) - start) / (end - start), 0.0, 1.0)
    frequencies = frequencies * (scaled * number(attrs, "scale") + (1.0 - scaled))
    if len(operands) > 1:
        frequencies = frequencies / operands[1]
    angles = operands[0][:, None] * frequencies
    return number(attrs, "magnitude") * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def _choice(types: Types, _attrs: Attrs) -> TensorType:
    short, long = types
    require(short == long, f"the short factors are {short}, the long ones {long}; expected one type")
    return short


ROPE_ANGLES = Op(
    "rope_angles",
    "magnitude · cos and sin of position · base^(-2i/dims) · s_i / factor_i, computed in float64 on every target; s_i goes from "
    "1 at pair ramp_start to `scale` at pair ramp_end: positions [n], factors [dims/2] -> [n, dims], the cosines first.",
    ("positions", "factors?"),
    infer=_angles,
    reference=_angles_reference,
    attrs={"base": float, "dims": int, "scale": float, "ramp_start": float, "ramp_end": float, "magnitude": float},
    numbers=dict.fromkeys(("base", "scale", "ramp_start", "ramp_end", "magnitude")),
    traits=Traits(weights=("factors",), is_rowwise=True),
)

CONTEXT_CHOICE = Op(
    "context_choice",
    "LongRoPE's factors (arXiv:2402.13753): `short` if a run has at most `limit` positions, else `long`. The pass fix-context, which "
    "knows the run, puts one of them in its place.",
    ("short", "long"),
    infer=_choice,
    attrs={"limit": int},
    traits=Traits(weights=("short", "long")),
)


def _rope(types: Types, attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "x")
    angle_rows, dims = activation(2, types[1], "angles")
    heads, head_size, start = integer(attrs, "heads"), integer(attrs, "head_size"), integer(attrs, "start")
    require(rows == angle_rows, f"x is {types[0]}, but the angles are {types[1]}")
    require(str(attrs["pairing"]) in PAIRINGS, f"pairing is {attrs['pairing']!r}, expected one of {', '.join(PAIRINGS)}")
    require(width(dims, "columns of the angles") % 2 == 0, f"the angles are {types[1]}, expected an even number of columns")
    require(0 < width(dims, "columns of the angles") <= head_size, f"the angles are {types[1]}, but heads have {head_size} elements")
    require(
        start >= 0 and heads >= 1 and start + heads * head_size <= width(columns, "columns of x"),
        f"{heads} heads of {head_size} from column {start} do not lie in {types[0]}",
    )
    return TensorType("f32", (rows, heads * head_size))


def _rope_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, angles = operands
    heads, head_size, start = integer(attrs, "heads"), integer(attrs, "head_size"), integer(attrs, "start")
    half = angles.shape[1] // 2
    cos, sin = angles[:, None, :half], angles[:, None, half:]
    result = x[:, start : start + heads * head_size].reshape(x.shape[0], heads, head_size).copy()
    if attrs["pairing"] == "interleaved":
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        first, second = slice(0, half), slice(half, 2 * half)
    a, b = result[..., first].copy(), result[..., second].copy()
    result[..., first] = a * cos - b * sin
    result[..., second] = a * sin + b * cos
    return result.reshape(x.shape[0], heads * head_size)


ROPE = Op(
    "rope",
    "Rotates `heads` heads of `head_size` elements that begin at column `start`; `pairing` says which elements form a "
    "pair; elements beyond the angles' dims stay: x [n, C], angles [n, dims] -> [n, heads · head_size].",
    ("x", "angles"),
    infer=_rope,
    reference=_rope_reference,
    attrs={"heads": int, "head_size": int, "start": int, "pairing": str},
    traits=Traits(is_rowwise=True),
)
