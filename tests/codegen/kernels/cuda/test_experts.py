"""CUDA's kernels of mixtures of experts, emulated: block formats of every kind, few positions and many, whoever chose which expert."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.block_formats import BLOCK_FORMATS
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import Weight, f32, reference, weight

RNG = np.random.default_rng(11)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def choices(n: int, k: int, experts: int) -> np.ndarray:
    return np.stack([RNG.permutation(experts)[:k] for _ in range(n)]).astype(np.float32)


Experts = tuple[KernelRequest, Weight]


def _experts(fmt: str, experts: int, rows: int, columns: int, k: int, *, each: bool = False) -> Experts:
    w = weight(fmt, experts, rows, columns)
    return request("expert_linear", [f32("n", k, columns) if each else f32("n", columns), f32("n", k), w.type]), w


def _of_format(fmt: str, index: int) -> Experts:
    """Columns from 1 block to 3, once 17; for plain formats a width that no run divides. A tile has 64 rows."""
    elements = BLOCK_FORMATS[fmt].elements
    columns = 53 if elements == 1 else elements * (17 if fmt == "Q5_0" else 1 + index % 3)
    return _experts(fmt, 5, (7, 65, 33)[index % 3], columns, 1 + index % 3, each=index % 2 == 1)


#: Decoders that differ from others here in nothing but what the tests of the linear kernel show, and that take long to compile.
ELSEWHERE = ("Q2_K", "Q3_K", "Q5_K", "IQ4_XS")
ONE, ALL_OF_8 = _experts("Q4_0", 3, 66, 64, 1), _experts("F32", 8, 7, 48, 8)
FORMATS = {"Q4_0": ONE, "F32": ALL_OF_8} | {
    fmt: _of_format(fmt, index) for index, fmt in enumerate(BLOCK_FORMATS) if fmt not in ("Q4_0", "F32", *ELSEWHERE)
}
BIASES = {
    fmt: (request("expert_bias_add", [f32("n", 3, columns), f32("n", 3), b.type]), b)
    for fmt, columns in (("F32", 21), ("BF16", 48), ("Q8_0", 64))
    for b in [weight(fmt, 5, columns)]
}
FACTORS = weight("BF16", 5)
SCALED = request("expert_scale", [f32("n", 3), f32("n", 3), FACTORS.type])
SUMS = {(k, columns): request("expert_sum", [f32("n", k, columns), f32("n", k)]) for k, columns in ((1, 5), (3, 21), (8, 300))}

#: Where weights go into the inputs, and the sums are without.
WEIGHED = {
    (k, columns): (request("expert_inputs", [f32("n", columns), f32("n", k)]), request("expert_sum", [f32("n", k, columns)]))
    for k, columns in ((1, 5), (3, 21))
}


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


def product(kernels: CudaKernels, what: Experts, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return kernels.run(what[0], [x, ids, what[1]], (*ids.shape, what[1].type.dims[1]))


def inputs(what: Experts, n: int) -> tuple[np.ndarray, np.ndarray]:
    x, ids, w = what[0].operands
    return activations(n, *x.dims[1:]), choices(n, ids.dims[1], w.dims[0])


def test_every_kind_of_format_is_among_them() -> None:
    """Every size of block, and every width of the words that it is read in."""
    kinds = {fmt: (BLOCK_FORMATS[fmt].elements, math.gcd(BLOCK_FORMATS[fmt].block_bytes, 4)) for fmt in BLOCK_FORMATS}
    assert {kinds[fmt] for fmt in FORMATS} == set(kinds.values())


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.parametrize("what", FORMATS.values(), ids=FORMATS)
def test_every_format_agrees_with_the_reference_and_a_position_is_the_same_alone(what: Experts, kernels: CudaKernels) -> None:
    x, ids = inputs(what, 33)
    many = product(kernels, what, x, ids)
    assert nmse(many, reference(what[0], [x, ids, what[1]])) < 1e-12
    # Up to 8 positions have a kernel of their own.
    for start, n in ((0, 1), (31, 2), (5, 7), (20, 8), (24, 9)):
        rows = slice(start, start + n)
        assert product(kernels, what, x[rows].copy(), ids[rows].copy()).tobytes() == many[rows].tobytes(), n


def test_more_choices_of_one_expert_than_a_tile_holds(kernels: CudaKernels) -> None:
    for what, n in ((ONE, 257), (ALL_OF_8, 100), (FORMATS["Q4_1"], 150), (FORMATS["BF16"], 70)):
        x, ids = inputs(what, n)
        got = product(kernels, what, x, ids)
        assert nmse(got, reference(what[0], [x, ids, what[1]])) < 1e-12
        for position in (0, 64, n - 1):
            alone = product(kernels, what, x[position : position + 1].copy(), ids[position : position + 1].copy())
            assert alone.tobytes() == got[position].tobytes()


def test_all_positions_with_one_expert_and_one_position_with_all(kernels: CudaKernels) -> None:
    for n in (1, 8, 64, 65, 130):
        for expert in (0, 2):
            x, ids = activations(n, 64), np.full((n, 1), expert, dtype=np.float32)
            assert nmse(product(kernels, ONE, x, ids), reference(ONE[0], [x, ids, ONE[1]])) < 1e-12
    for n in (1, 9):
        x, ids = activations(n, 48), np.tile(np.arange(8, dtype=np.float32)[::-1], (n, 1))
        assert nmse(product(kernels, ALL_OF_8, x, ids), reference(ALL_OF_8[0], [x, ids, ALL_OF_8[1]])) < 1e-12


@pytest.mark.parametrize("n", [4, 70])
def test_a_position_that_could_choose_nothing_is_nan_and_the_others_are_not(n: int, kernels: CudaKernels) -> None:
    for what in (ONE, ALL_OF_8, FORMATS["F16"]):
        x, ids = inputs(what, n)
        before = product(kernels, what, x, ids)
        ids[[0, 2]] = np.nan
        after = product(kernels, what, x, ids)
        assert np.isnan(after[[0, 2]]).all()
        assert np.delete(after, [0, 2], axis=0).tobytes() == np.delete(before, [0, 2], axis=0).tobytes()
        ids[:] = np.nan
        assert np.isnan(product(kernels, what, x, ids)).all()


@pytest.mark.parametrize("n", [6, 20])
def test_nan_in_one_position_stays_there(n: int, kernels: CudaKernels) -> None:
    for what in (ONE, ALL_OF_8, FORMATS["Q8_0"]):
        x, ids = inputs(what, n)
        clean = product(kernels, what, x, ids)
        x[2, ..., 5] = np.nan
        dirty = product(kernels, what, x, ids)
        assert np.isnan(dirty[2]).all()
        assert np.delete(dirty, 2, axis=0).tobytes() == np.delete(clean, 2, axis=0).tobytes()


@pytest.mark.parametrize(("k", "columns"), SUMS)
def test_the_weighted_sum(k: int, columns: int, kernels: CudaKernels) -> None:
    what = SUMS[k, columns]
    for n in (1, 2, 7, 33, 257):
        x, weights = activations(n, k, columns), activations(n, k)
        assert nmse(kernels.run(what, [x, weights], (n, columns)), reference(what, [x, weights])) < 1e-12
    weights[3] = np.nan
    assert np.isnan(kernels.run(what, [x, weights], (257, columns))).any(axis=1).nonzero()[0].tolist() == [3]


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize(("k", "columns"), WEIGHED)
def test_weights_in_the_inputs(k: int, columns: int, kernels: CudaKernels) -> None:
    what, plain = WEIGHED[k, columns]
    for n in (1, 33):
        x, weights = activations(n, columns), activations(n, k)
        given = kernels.run(what, [x, weights], (n, k, columns))
        assert nmse(given, reference(what, [x, weights])) < 1e-13
        assert nmse(kernels.run(plain, [given], (n, columns)), reference(plain, [given])) < 1e-12


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("what", BIASES.values(), ids=BIASES)
def test_biases_of_the_chosen_experts(what: Experts, kernels: CudaKernels) -> None:
    asked, b = what
    for n in (1, 2, 7, 33):
        x, ids = activations(n, *asked.operands[0].dims[1:]), choices(n, 3, 5)
        got = kernels.run(asked, [x, ids, b], x.shape)
        assert nmse(got, reference(asked, [x, ids, b])) < 1e-13
        assert kernels.run(asked, [x[-1:].copy(), ids[-1:].copy(), b], (1, *x.shape[1:])).tobytes() == got[-1:].tobytes()
    ids[4, 1] = np.nan
    assert np.argwhere(np.isnan(kernels.run(asked, [x, ids, b], x.shape)).any(axis=-1)).tolist() == [[4, 1]]


@pytest.mark.contract("CUDA-KERNELS-1")
def test_factors_of_the_chosen_experts(kernels: CudaKernels) -> None:
    for n in (1, 9):
        x, ids = activations(n, 3), choices(n, 3, 5)
        assert nmse(kernels.run(SCALED, [x, ids, FACTORS], (n, 3)), reference(SCALED, [x, ids, FACTORS])) < 1e-13
    ids[4, 1] = np.nan
    assert np.argwhere(np.isnan(kernels.run(SCALED, [x, ids, FACTORS], (n, 3)))).tolist() == [[4, 1]]
