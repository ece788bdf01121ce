"""CUDA's linear kernel, emulated: every block format, few positions and many, sizes that no tile divides."""

from __future__ import annotations

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


#: Columns, and rows by format: weights whose products lie side by side. A tile has 64 rows, a part of a row at least one block.
SHAPES: list[tuple[int, dict[str, int]]] = [
    (53, {"F32": 70, "F16": 1, "BF16": 13}),
    (32, {"Q8_0": 7, "Q4_1": 66}),
    (96, {"IQ4_NL": 33}),
    (160, {"Q4_0": 5, "MXFP4": 129}),
    (544, {"Q5_1": 12, "Q5_0": 3}),
    (256, {"Q2_K": 9, "IQ4_XS": 2}),
    (512, {"Q3_K": 67}),
    (768, {"Q5_K": 1}),
    (1280, {"Q6_K": 10}),
    (18 * 256, {"Q4_K": 3}),
]


def _linear(columns: int, rows: dict[str, int]) -> tuple[KernelRequest, list[Weight]]:
    weights = [weight(fmt, count, columns) for fmt, count in rows.items()]
    return request("linear", [f32("n", columns), *(w.type for w in weights)]), weights


LINEAR = {" ".join([str(columns), *rows]): _linear(columns, rows) for columns, rows in SHAPES}
#: 16 columns are a run, so that plain weights of a multiple of them are read without asking where the row ends.
ALIGNED = _linear(48, {"F16": 5, "F32": 6})


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


def linear(kernels: CudaKernels, x: np.ndarray, what: tuple[KernelRequest, list[Weight]]) -> np.ndarray:
    return kernels.run(what[0], [x, *what[1]], (len(x), sum(w.type.dims[0] for w in what[1])))


def check(got: np.ndarray, x: np.ndarray, what: tuple[KernelRequest, list[Weight]]) -> None:
    expected, start = reference(what[0], [x, *what[1]]), 0
    for w in what[1]:
        columns = slice(start, start := start + w.type.dims[0])
        assert nmse(got[:, columns], expected[:, columns]) < 1e-12, w.type


def test_every_format_is_among_them() -> None:
    assert sorted(fmt for _, rows in SHAPES for fmt in rows) == sorted(BLOCK_FORMATS)


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.parametrize("what", LINEAR.values(), ids=LINEAR)
def test_every_format_agrees_with_the_reference_and_a_position_is_the_same_alone(
    what: tuple[KernelRequest, list[Weight]], kernels: CudaKernels
) -> None:
    x = activations(33, int(what[0].operands[0].dims[1]))
    many = linear(kernels, x, what)
    check(many, x, what)
    # Up to 8 positions have a kernel of their own, 4 at once.
    for start, n in ((0, 1), (31, 2), (5, 7), (20, 8), (24, 9)):
        assert linear(kernels, x[start : start + n].copy(), what).tobytes() == many[start : start + n].tobytes(), n


@pytest.mark.parametrize("what", [ALIGNED, LINEAR["53 F32 F16 BF16"], LINEAR["32 Q8_0 Q4_1"]], ids=["48 F16 F32", "53", "32"])
def test_several_tiles_of_positions(what: tuple[KernelRequest, list[Weight]], kernels: CudaKernels) -> None:
    x = activations(257, int(what[0].operands[0].dims[1]))
    got = linear(kernels, x, what)
    check(got, x, what)
    for position in (0, 63, 64, 200, 256):
        assert linear(kernels, x[position : position + 1].copy(), what).tobytes() == got[position].tobytes()
    for n in (64, 65, 128):
        assert linear(kernels, x[:n].copy(), what).tobytes() == got[:n].tobytes()


@pytest.mark.parametrize("n", [6, 20])
def test_nan_in_one_position_stays_there(n: int, kernels: CudaKernels) -> None:
    for what in (LINEAR["32 Q8_0 Q4_1"], LINEAR["53 F32 F16 BF16"]):
        x = activations(n, int(what[0].operands[0].dims[1]))
        clean = linear(kernels, x, what)
        x[2, 5] = np.nan
        dirty = linear(kernels, x, what)
        assert np.isnan(dirty[2]).all()
        assert np.delete(dirty, 2, axis=0).tobytes() == np.delete(clean, 2, axis=0).tobytes()
