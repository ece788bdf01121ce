"""RoPE's angles multiplied up in float32, as ggml's CPU backend has them (ggml_rope_cache_init of ggml-cpu/ops.cpp).

The angle of pair i is position · s · s · … with s = base^(-2/dims) in float32, rounded after each of i products. It is then
divided by the pair's factor and scaled as YaRN says. Far out this is off by more than float32 is: docs/arithmetic.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from aprgraph.graph.ops.base import Array, Attrs, Op, integer, number
from aprgraph.graph.ops.rope import ROPE_ANGLES, has_ramp

_F32 = np.float32


def _chained_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    pairs = integer(attrs, "dims") // 2
    # In float64 and rounded: powf is right but for a bit in some thousands of cases.
    step = _F32(float(_F32(number(attrs, "base"))) ** float(_F32(-2) / _F32(integer(attrs, "dims"))))
    steps = np.full((len(operands[0]), pairs), step)
    steps[:, 0] = operands[0]
    angles = np.multiply.accumulate(steps, axis=1, dtype=_F32)
    if len(operands) > 1:
        angles = angles / operands[1].astype(_F32)
    scaled = _F32(number(attrs, "scale")) * angles
    if has_ramp(attrs):
        start, end = _F32(number(attrs, "ramp_start")), _F32(number(attrs, "ramp_end"))
        along = (np.arange(pairs, dtype=_F32) - start) / np.maximum(_F32(0.001), end - start)
        unscaled = _F32(1) - np.minimum(_F32(1), np.maximum(_F32(0), along))
        scaled = scaled * (_F32(1) - unscaled) + angles * unscaled
    wide = scaled.astype(np.float64)  # sinf and cosf are right to the last bit, or one beside it
    halves = [function(wide).astype(_F32) * _F32(number(attrs, "magnitude")) for function in (np.cos, np.sin)]
    return np.concatenate(halves, axis=1).astype(np.float64)


ROPE_ANGLES_CHAINED = Op(
    "rope_angles_chained",
    "`rope_angles` in float32, the angle of each pair that of the pair before it times base^(-2/dims): "
    "positions [n], factors [dims/2] -> [n, dims].",
    ROPE_ANGLES.operands,
    infer=ROPE_ANGLES.infer,
    reference=_chained_reference,
    attrs=ROPE_ANGLES.attrs,
    numbers=ROPE_ANGLES.numbers,
    traits=replace(ROPE_ANGLES.traits, variant_of=ROPE_ANGLES.name),
)
