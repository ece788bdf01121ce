"""CUDA's kernels on rows and the statistics of taps, emulated; and that the four files together have every kernel."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest, cpu, cuda
from aprgraph.graph.calling_convention import STATISTICS_CHUNK, STATISTICS_COLUMNS, STATISTICS_KERNEL
from aprgraph.runtime.trace.statistics import compute_statistics, statistics_from_sums
from tests.codegen import test_cuda_attention, test_cuda_experts, test_cuda_linear
from tests.support.cuda_emulator import InOut, Out
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import Weight, f32, i32, reference, weight

RNG = np.random.default_rng(3)
SIZES = (1, 2, 7, 8, 9, 33, 257)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _norm(fmt: str, columns: int, groups: int, eps: float = 1e-5) -> tuple[KernelRequest, Weight]:
    w = weight(fmt, columns // groups)
    return request("rms_norm", [f32("n", columns), w.type], eps=eps, groups=groups), w


def _bias(*pieces: tuple[str, int]) -> tuple[KernelRequest, list[Weight]]:
    biases = [weight(fmt, columns, seed=number) for number, (fmt, columns) in enumerate(pieces)]
    return request("bias_add", [f32("n", sum(count for _, count in pieces)), *(b.type for b in biases)]), biases


#: Rows of up to 512 are summed by one warp, others by eight.
NORMS = [
    *(_norm("F32", *sizes) for sizes in ((64, 1), (53, 1), (3, 1), (96, 4), (60, 5), (512, 1), (513, 1), (2000, 2))),
    _norm("F16", 70, 2), _norm("BF16", 600, 1), _norm("Q8_0", 96, 1), _norm("Q4_K", 768, 1),
]  # fmt: skip
EXTREME_NORM = _norm("F32", 40, 1, 1e-6)
BIASES = [_bias(("F32", 9), ("F16", 4), ("BF16", 21)), _bias(("F32", 300)), _bias(("Q8_0", 64), ("F32", 7))]
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
COLUMNS = {count: request("columns", [f32("n", 60)], start=60 - count, stop=60) for count in (1, 16, 53)}
INNER_COLUMNS = request("columns", [f32("n", 60)], start=7, stop=30)
LAST_ROWS = {columns: request("last_row", [f32("n", columns)]) for columns in (1, 60, 300)}
CACHE = request("cache", [f32("n", 13)])
SCALE_ROWS = request("scale_rows", [f32("n", 13), f32("n", 1)])
PAIRS = {op: request(op, [f32("n", 37), f32("n", 37)]) for op in ("add", "mul")}
PAIRS_OF_EXPERTS = {op: request(op, [f32("n", 3, 21), f32("n", 3, 21)]) for op in ("add", "mul")}
CURVES = {op: request(op, [f32("n", 100)]) for op in ("silu", "gelu", "sigmoid")}
CURVES_OF_EXPERTS = {op: request(op, [f32("n", 3, 21)]) for op in ("silu", "gelu", "sigmoid")}


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("CUDA-KERNELS-1")
def test_every_kernel_is_tested_and_there_are_those_of_the_cpu() -> None:
    files = (test_cuda_linear.request, test_cuda_attention.request, test_cuda_experts.request, request)
    assert {what.op for made in files for what in made} == set(cuda.KERNELS)
    assert set(cuda.KERNELS) == set(cpu.KERNELS)


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("what", NORMS, ids=[f"{w.type.dtype} {r.operands[0].dims[1]}/{r.attrs['groups']}" for r, w in NORMS])
def test_rms_norm(what: tuple[KernelRequest, Weight], kernels: CudaKernels) -> None:
    norm, w = what
    columns = int(norm.operands[0].dims[1])
    for n in SIZES[:-1]:
        x = activations(n, columns)
        got = kernels.run(norm, [x, w], (n, columns))
        assert nmse(got, reference(norm, [x, w])) < 1e-12
        assert kernels.run(norm, [x[-1:].copy(), w], (1, columns)).tobytes() == got[-1].tobytes()
    x[4, 0] = np.nan
    size = columns // norm.attr_int("groups")
    dirty = kernels.run(norm, [x, w], (n, columns))
    assert np.isnan(dirty[4, :size]).all()
    dirty[4, :size] = got[4, :size]
    assert dirty.tobytes() == got.tobytes()


def test_rms_norm_of_zeros_and_of_huge_values(kernels: CudaKernels) -> None:
    norm, w = EXTREME_NORM
    x = np.stack([np.zeros(40), np.full(40, 1e15), np.full(40, 1e-15)]).astype(np.float32)
    got, expected = kernels.run(norm, [x, w], (3, 40)), reference(norm, [x, w])
    for row in range(3):
        np.testing.assert_allclose(got[row], expected[row], rtol=1e-5)


@pytest.mark.parametrize("what", BIASES, ids=[" ".join(b.type.dtype for b in biases) for _, biases in BIASES])
def test_biases_lie_side_by_side(what: tuple[KernelRequest, list[Weight]], kernels: CudaKernels) -> None:
    for n in SIZES:
        x = activations(n, int(what[0].operands[0].dims[1]))
        assert nmse(kernels.run(what[0], [x, *what[1]], x.shape), reference(what[0], [x, *what[1]])) < 1e-13


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
        np.testing.assert_allclose(got, reference(what, [tokens, *operands]), atol=8e-8 * what.attr_float("magnitude"))


def test_copies_are_exact(kernels: CudaKernels) -> None:
    for n in SIZES:
        x = activations(n, 60)
        for count, what in COLUMNS.items():
            assert kernels.run(what, [x], (n, count)).tobytes() == x[:, 60 - count :].tobytes()
        assert kernels.run(INNER_COLUMNS, [x], (n, 23)).tobytes() == x[:, 7:30].tobytes()
        for columns, what in LAST_ROWS.items():
            rows = activations(n, columns)
            assert kernels.run(what, [rows], (1, columns)).tobytes() == rows[-1:].tobytes()


def test_a_cache_takes_the_last_rows_and_leaves_the_others(kernels: CudaKernels) -> None:
    for n in SIZES:
        for before in (0, 1, 30):
            x, held = activations(n, 13), activations(n + before, 13)
            got = kernels.run(CACHE, [x], InOut(held))
            assert got.tobytes() == held[:before].tobytes() + x.tobytes()


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


@pytest.mark.parametrize("count", [1, 7, 8, 255, 257, STATISTICS_CHUNK, STATISTICS_CHUNK + 1, 40_000])
def test_statistics_kernel_agrees_with_numpy(count: int, kernels: CudaKernels) -> None:
    for spoiled in (False, True):
        x = (3 + activations(count)).astype(np.float32)
        if spoiled:
            x[RNG.integers(0, count, 5)] = np.nan
            x[RNG.integers(0, count, 3)] = np.inf
            x[0] = -np.inf
        rows = kernels.call(STATISTICS_KERNEL, [x, Out((-(-count // STATISTICS_CHUNK), STATISTICS_COLUMNS), np.float64)])
        nan, inf = (int(column.sum()) for column in rows[:, :2].T)
        got = statistics_from_sums(count, nan, inf, rows[:, 2].min(), rows[:, 3].max(), rows[:, 4].sum(), rows[:, 5].sum())
        expected = compute_statistics(x)
        assert (got.count, got.nan, got.inf, got.min, got.max) == (expected.count, expected.nan, expected.inf, expected.min, expected.max)
        if expected.mean is not None:
            assert got.mean == pytest.approx(expected.mean, rel=1e-12)
            assert got.rms == pytest.approx(expected.rms, rel=1e-12)
