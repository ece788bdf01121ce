"""CUDA's kernels of heads, emulated: parts of heads, and a matrix for each head."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import f32, reference, weight

RNG = np.random.default_rng(17)
HEADS = 3
request = Requests()

JOINED = {
    False: request("join_heads", [f32("n", HEADS * 19), f32("n", HEADS * 7)], heads=HEADS),
    True: request("join_heads", [f32("n", HEADS * 19), f32("n", 7)], heads=HEADS, shared=True),
}
PARTS = {stop: request("columns", [f32("n", HEADS * 26)], start=start, stop=stop, heads=HEADS) for start, stop in ((0, 19), (19, 26))}
WEIGHTS = [weight("F32", HEADS, 9, 53), weight("Q8_0", HEADS, 70, 64)]
PRODUCTS = [request("head_linear", [f32("n", HEADS * int(w.type.dims[2])), w.type]) for w in WEIGHTS]


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.parametrize("shared", JOINED)
def test_parts_of_heads_are_joined_and_taken_apart_exactly(shared: bool, kernels: CudaKernels) -> None:
    x, y = activations(5, HEADS * 19), activations(5, 7 if shared else HEADS * 7)
    joined = kernels.run(JOINED[shared], [x, y], (5, HEADS * 26))
    np.testing.assert_array_equal(joined, reference(JOINED[shared], [x, y]))
    for stop, part in ((19, x), (26, np.tile(y, HEADS) if shared else y)):
        assert kernels.run(PARTS[stop], [joined], part.shape).tobytes() == part.tobytes()


@pytest.mark.contract("CUDA-KERNELS-1", "DET-POSITION-1")
@pytest.mark.parametrize("index", range(len(WEIGHTS)), ids=["F32", "Q8_0"])
def test_each_head_has_a_matrix_of_its_own(index: int, kernels: CudaKernels) -> None:
    """For few positions and for many, with the same bits."""
    w, what = WEIGHTS[index], PRODUCTS[index]
    rows, columns = (int(dim) for dim in w.type.dims[1:])
    x = activations(70, HEADS * columns)
    whole = kernels.run(what, [x, w], (70, HEADS * rows))
    assert nmse(whole, reference(what, [x, w])) < 1e-12
    for first, count in ((0, 1), (66, 3)):
        part = kernels.run(what, [x[first : first + count].copy(), w], (count, HEADS * rows))
        assert part.tobytes() == whole[first : first + count].tobytes()
