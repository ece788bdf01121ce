"""CUDA's kernels of rotary position embeddings, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import f32, i32, reference

RNG = np.random.default_rng(3)
SIZES = (1, 2, 7, 8, 9, 33, 257)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


ROPES = {
    (pairing, heads, size, dims, start): request(
        "rope", [f32("n", start + heads * size + 3), f32("n", dims)], heads=heads, head_size=size, start=start, pairing=pairing
    )
    for pairing in ("interleaved", "halves")
    for heads, size, dims, start in ((3, 16, 16, 0), (2, 10, 6, 4), (1, 64, 64, 7))
}
_PLAIN = {"scale": 1.0, "ramp_start": -1.0, "ramp_end": 0.0, "magnitude": 1.0}
ANGLES = [
    (request("rope_angles", [i32("n"), *([f32(attrs["dims"] // 2)] if factors else [])], **attrs), factors)
    for attrs, factors in (
        ({**_PLAIN, "base": 1e4, "dims": 6}, False),
        ({**_PLAIN, "base": 5e5, "dims": 64, "scale": 0.5}, True),
        ({"base": 1e4, "dims": 20, "scale": 0.25, "ramp_start": 2.0, "ramp_end": 6.5, "magnitude": 1.138}, False),
        ({"base": 1e6, "dims": 20, "scale": 0.25, "ramp_start": 2.0, "ramp_end": 6.5, "magnitude": 1.138}, True),
    )
]

CHAINED = [(request("rope_angles_chained", what.operands, **what.attrs), factors) for what, factors in ANGLES]


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.parametrize(("pairing", "heads", "size", "dims", "start"), ROPES)
def test_rope(pairing: str, heads: int, size: int, dims: int, start: int, kernels: CudaKernels) -> None:
    what = ROPES[pairing, heads, size, dims, start]
    for n in SIZES:
        x, angle = activations(n, start + heads * size + 3), RNG.uniform(0, 6, (n, dims // 2))
        angles = np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        got = kernels.run(what, [x, angles], (n, heads * size))
        assert nmse(got, reference(what, [x, angles])) < 1e-12
        copied = slice(start + dims, start + size)
        assert got[:, dims:size].tobytes() == x[:, copied].tobytes()


@pytest.mark.parametrize(("what", "factors"), ANGLES, ids=["plain", "factors", "ramp", "ramp and factors"])
def test_rope_angles_keep_their_precision_far_out(what: KernelRequest, factors: bool, kernels: CudaKernels) -> None:
    """In float32 the angle of position 130,000 would already be off by 0.004."""
    dims = what.attr_int("dims")
    operands = [RNG.uniform(1, 8, dims // 2).astype(np.float32)] if factors else []
    for positions in ([0, 1, 4095, 131071], [17], np.arange(50)):
        tokens = np.array(positions, dtype=np.int32)
        got = kernels.run(what, [tokens, *operands], (len(tokens), dims))
        np.testing.assert_allclose(got, reference(what, [tokens, *operands]), atol=8e-8 * what.numbers["magnitude"])


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize(("what", "factors"), CHAINED, ids=["plain", "factors", "ramp", "ramp and factors"])
def test_chained_angles_have_the_bits_of_their_declaration(what: KernelRequest, factors: bool, kernels: CudaKernels) -> None:
    dims = what.attr_int("dims")
    operands = [RNG.uniform(1, 8, dims // 2).astype(np.float32)] if factors else []
    positions = np.array([0, 1, 2, 77, 4095, 32000], dtype=np.int32)
    got, wanted = kernels.run(what, [positions, *operands], (6, dims)), reference(what, [positions, *operands]).astype(np.float32)
    np.testing.assert_array_max_ulp(got, wanted, maxulp=1)
    assert (got == wanted).mean() > 0.98
