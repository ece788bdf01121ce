"""Kernels of rotary position embeddings, on every CPU level."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, i32, reference, request, run, weight

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(3)
SIZES = (1, 2, 7, 33)

#: Bases and scalings of chained angles.
CHAINED = {
    "plain": {"base": 1e4, "scale": 1.0, "ramp_start": -1.0, "ramp_end": 0.0, "magnitude": 1.0},
    "linear": {"base": 5e5, "scale": 0.25, "ramp_start": -1.0, "ramp_end": 0.0, "magnitude": 1.0},
    "ramp": {"base": 1e6, "scale": 0.25, "ramp_start": 6.0, "ramp_end": 20.5, "magnitude": 1.138},
}


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
@pytest.mark.parametrize(("heads", "size", "dims", "start"), [(3, 16, 16, 0), (2, 10, 6, 4), (1, 64, 64, 7)])
def test_rope(pairing: str, heads: int, size: int, dims: int, start: int, cpu: Cpu) -> None:
    columns = start + heads * size + 3
    what = request("rope", [f32("n", columns), f32("n", dims)], heads=heads, head_size=size, start=start, pairing=pairing)
    for n in SIZES:
        x, angle = activations(n, columns), RNG.uniform(0, 6, (n, dims // 2))
        angles = np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        assert nmse(run(what, [x, angles], (n, heads * size), cpu), reference(what, [x, angles])) < 1e-12


@pytest.mark.parametrize("factors", [False, True])
def test_rope_angles_far_out_keep_their_precision(factors: bool) -> None:
    """In float32 the angle of position 130,000 would already be off by 0.004."""
    operands = [weight("F32", 32)] if factors else []
    if factors:
        operands[0].stored[:] = RNG.uniform(1, 8, 32)
        operands[0].decoded[:] = operands[0].stored
    what = request(
        "rope_angles", [i32("n"), *(w.type for w in operands)], base=5e5, dims=64, scale=0.5, ramp_start=-1.0, ramp_end=0.0, magnitude=1.0
    )
    positions = np.array([0, 1, 4095, 131071], dtype=np.int32)
    got = run(what, [positions, *operands], (4, 64), RUNNABLE[-1])
    np.testing.assert_allclose(got, reference(what, [positions, *operands]), atol=1e-7)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_rope_angles_along_a_ramp(cpu: Cpu) -> None:
    attrs = {"base": 1e4, "dims": 20, "scale": 0.25, "ramp_start": 2.0, "ramp_end": 6.5, "magnitude": 1.138}
    what = request("rope_angles", [i32("n")], **attrs)
    positions = np.arange(50, dtype=np.int32)
    np.testing.assert_allclose(run(what, [positions], (50, 20), cpu), reference(what, [positions]), atol=2e-7)


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("attrs", CHAINED.values(), ids=CHAINED)
@pytest.mark.parametrize("factors", [False, True])
def test_chained_angles_have_the_bits_of_their_declaration(factors: bool, attrs: dict, cpu: Cpu) -> None:
    """Out to where exact angles are off by more than a thousandth."""
    operands = [weight("F32", 32)] if factors else []
    for each in operands:
        each.stored[:] = RNG.uniform(1, 8, 32)
        each.decoded[:] = each.stored
    what = request("rope_angles_chained", [i32("n"), *(w.type for w in operands)], dims=64, **attrs)
    positions = np.array([0, 1, 2, 77, 4095, 32000], dtype=np.int32)
    got = run(what, [positions, *operands], (6, 64), cpu)
    # A sine may be rounded to the neighbour where the C library's is not NumPy's.
    np.testing.assert_array_max_ulp(got, reference(what, [positions, *operands]).astype(np.float32), maxulp=1)
    assert (got == reference(what, [positions, *operands]).astype(np.float32)).mean() > 0.99
