"""CUDA's kernels of AltUp's streams, and of the bound of sparse activations, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import f32, i32, reference, weight

RNG = np.random.default_rng(29)
STREAMS, SIZE = 4, 37
request = Requests()

#: By op: the request, and the columns of its operands. Rows of up to 512 are summed by one warp, others by eight.
CASES = {
    "altup_predict": (request("altup_predict", [f32("n", STREAMS * SIZE), f32("n", STREAMS**2)]), (STREAMS * SIZE, STREAMS**2)),
    "altup_correct": (
        request("altup_correct", [f32("n", STREAMS * SIZE), f32("n", SIZE), f32("n", STREAMS)], active=1), (STREAMS * SIZE, SIZE, STREAMS),
    ),
    "stream_add": (request("stream_add", [f32("n", STREAMS * SIZE), f32("n", SIZE)], streams=STREAMS, start=1), (STREAMS * SIZE, SIZE)),
    "stream_mean": (request("stream_mean", [f32("n", STREAMS * SIZE)], streams=STREAMS), (STREAMS * SIZE,)),
    "match_rms": (request("match_rms", [f32("n", STREAMS * SIZE), f32("n", SIZE)], least=1e-5), (STREAMS * SIZE, SIZE)),
    "gaussian_top_k": (request("gaussian_top_k", [f32("n", SIZE)], factor=0.5), (SIZE,)),
    "of a sample": (request("gaussian_top_k", [f32("n", 700)], factor=0.5, sample=True), (700,)),
}  # fmt: skip
TABLE, STACK = weight("Q8_0", 5, 64), weight("F32", 3, 29, 64)
EMBED = request("embed", [i32("n"), TABLE.type], scale=1.0, first_for_others=True)
SHARED = request("head_linear", [f32("n", 64), STACK.type], shared=True)


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("CUDA-KERNELS-1", "DET-POSITION-1")
@pytest.mark.parametrize("name", CASES)
def test_streams(name: str, kernels: CudaKernels) -> None:
    """Close to the reference, with the same bits for a position alone, and a NaN stays in its position."""
    what, columns = CASES[name]
    operands = [RNG.standard_normal((9, count)).astype(np.float32) for count in columns]
    expected = reference(what, operands)
    whole = kernels.run(what, operands, expected.shape)
    assert nmse(whole, expected) < 1e-12
    alone = kernels.run(what, [operand[4:5].copy() for operand in operands], (1, expected.shape[1]))
    assert alone.tobytes() == whole[4].tobytes()
    operands[0][4] = np.nan
    dirty = kernels.run(what, operands, expected.shape)
    assert np.isnan(dirty[4]).all()
    assert np.delete(dirty, 4, 0).tobytes() == np.delete(whole, 4, 0).tobytes()


@pytest.mark.contract("CUDA-KERNELS-1")
def test_a_token_without_a_row_takes_the_first(kernels: CudaKernels) -> None:
    tokens = np.array([4, 5, 0, 900], np.int32)
    got = kernels.run(EMBED, [tokens, TABLE], (4, 64))
    assert nmse(got, reference(EMBED, [tokens, TABLE])) < 1e-12
    assert got[1].tobytes() == got[2].tobytes() == got[3].tobytes() != got[0].tobytes()


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("n", [5, 70])
def test_a_row_that_all_matrices_read(n: int, kernels: CudaKernels) -> None:
    """For few positions and for many."""
    x = RNG.standard_normal((n, 64)).astype(np.float32)
    assert nmse(kernels.run(SHARED, [x, STACK], (n, 87)), reference(SHARED, [x, STACK])) < 1e-12
