"""CUDA's kernels of elementwise ops, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cuda.host_code import build_host_code
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import f32, reference

RNG = np.random.default_rng(3)
SIZES = (1, 2, 7, 8, 9, 33, 257)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


SCALE_ROWS = request("scale_rows", [f32("n", 13), f32("n", 1)])
PAIRS = {op: request(op, [f32("n", 37), f32("n", 37)]) for op in ("add", "mul")}
PAIRS_OF_EXPERTS = {op: request(op, [f32("n", 3, 21), f32("n", 3, 21)]) for op in ("add", "mul")}
CURVES = {op: request(op, [f32("n", 100)]) for op in ("silu", "gelu", "sigmoid")}
CURVES_OF_EXPERTS = {op: request(op, [f32("n", 3, 21)]) for op in ("silu", "gelu", "sigmoid")}

#: Formulas with attributes, and what they are at.
FORMULAS = {
    "scale": {"factor": 0.22},
    "soft_cap": {"cap": 3.0},
    "clamp": {"bound": 0.7},
    "clamped_swiglu": {"limit": 2.0, "alpha": 1.702},
    "relu_squared": {},
    "tanh": {},
    "softplus": {},
    "gelu_erf": {},
    "xielu": {"alpha_p": 0.8, "alpha_n": 0.9, "beta": 0.5, "eps": -1e-6},
}
FORMULA_REQUESTS = {
    op: [request(op, [kind] * (2 if op == "clamped_swiglu" else 1), **attrs) for kind in (f32("n", 37), f32("n", 3, 21))]
    for op, attrs in FORMULAS.items()
}

BY_TABLE = [request("gelu_half", [f32("n", *inner)]) for inner in ((1024,), (2, 19))]


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


def test_scaled_rows(kernels: CudaKernels) -> None:
    for n in SIZES:
        x, factors = activations(n, 13), activations(n, 1)
        assert kernels.run(SCALE_ROWS, [x, factors], (n, 13)).tobytes() == (x * factors).tobytes()


@pytest.mark.parametrize("op", ["add", "mul"])
def test_elementwise_is_correctly_rounded(op: str, kernels: CudaKernels) -> None:
    for n in SIZES:
        for what, inner in ((PAIRS[op], (37,)), (PAIRS_OF_EXPERTS[op], (3, 21))):
            a, b = activations(n, *inner), activations(n, *inner)
            expected = a + b if op == "add" else a * b
            assert kernels.run(what, [a, b], a.shape).tobytes() == expected.tobytes()


def test_elementwise_extremes(kernels: CudaKernels) -> None:
    """Infinities, NaN, and numbers below the normal ones, which are not taken for 0."""
    values = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-40, 1.2e-38, 1e-20, 1.0, 1e30, -3e38, np.inf, -np.inf, np.nan], dtype=np.float32)
    a, b = (np.resize(part.reshape(-1), (5, 37)) for part in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(kernels.run(PAIRS["add"], [a, b], a.shape), a + b)
        np.testing.assert_array_equal(kernels.run(PAIRS["mul"], [a, b], a.shape), a * b)


@pytest.mark.parametrize("op", CURVES)
def test_activations_over_the_whole_range(op: str, kernels: CudaKernels) -> None:
    """Our own exponential: a dense sweep, and what happens at its ends."""
    x = np.linspace(-120, 120, 20_000, dtype=np.float32).reshape(200, 100)
    with np.errstate(over="ignore"):
        got, expected = kernels.run(CURVES[op], [x], x.shape), reference(CURVES[op], [x])
    np.testing.assert_allclose(got, expected, rtol=4e-7 if op != "gelu" else 2e-5, atol=1e-36)
    small = np.resize(np.array([1e-45, -1e-45, 1e-40, -3e-39, 0.0, -0.0], dtype=np.float32), (1, 100))
    expected = np.full((1, 100), 0.5) if op == "sigmoid" else (small / np.float32(2)).astype(np.float32)
    np.testing.assert_array_equal(kernels.run(CURVES[op], [small], (1, 100)), expected)
    ends = np.array([[np.inf, np.nan, 100, -100, 1e30, -1e30, 3e38, -3e38] + [1.0] * 92], dtype=np.float32)
    got = kernels.run(CURVES[op], [ends], (1, 100))[0]
    assert np.isnan(got[1])
    high, low = [2, 4, 6, 0], [3, 5, 7]
    assert got[high].tolist() == ([1.0] * 4 if op == "sigmoid" else ends[0, high].tolist())
    assert np.abs(got[low]).max() < 1e-36


@pytest.mark.parametrize("op", CURVES)
def test_activations_of_experts(op: str, kernels: CudaKernels) -> None:
    what = CURVES_OF_EXPERTS[op]
    for n in SIZES:
        x = activations(n, 3, 21) * np.float32(4)
        assert nmse(kernels.run(what, [x], x.shape), reference(what, [x])) < 1e-12
    clean = kernels.run(what, [x], x.shape)
    x[5, 2, 3] = np.nan
    assert np.argwhere(np.isnan(kernels.run(what, [x], x.shape))).tolist() == [[5, 2, 3]]
    assert np.isfinite(clean).all()


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("op", FORMULAS)
def test_formulas_with_attributes(op: str, kernels: CudaKernels) -> None:
    for what in FORMULA_REQUESTS[op]:
        for n in SIZES:
            operands = [activations(n, *kind.dims[1:]) * np.float32(4) for kind in what.operands]
            operands[-1].flat[7] = np.nan
            operands[0].flat[:2] = [np.inf, -np.inf]
            got = kernels.run(what, operands, operands[0].shape)
            np.testing.assert_allclose(got, reference(what, operands), rtol=1e-6, atol=1e-6)
            assert np.isnan(got.flat[7])


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
def test_gelu_by_a_table_is_that_table(kernels: CudaKernels) -> None:
    x = np.concatenate([np.linspace(-11, 11, 8180), [np.nan, np.inf, -np.inf, 0.0, -0.0, 10, -10, 65520, -7e4, 1e-8, -1e-8, 1e-30]])
    for what, shape in zip(BY_TABLE, ((8, 1024), (215, 2, 19)), strict=True):
        rows = x[-int(np.prod(shape)) :].astype(np.float32).reshape(shape)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(kernels.run(what, [rows], shape), reference(what, [rows]).astype(np.float32))


def test_what_a_formula_reads_several_times_is_in_its_source_once() -> None:
    """Written out where it is read, softplus has an exponential a hundred times, and half a megabyte."""
    (what, _) = FORMULA_REQUESTS["softplus"]
    _, source = build_host_code({what.symbol: what})
    _, kernel = source.code.rsplit("__global__", 1)
    assert what.symbol in kernel
    assert kernel.count("floorf(") == 1
    assert len(kernel) < 5000
