"""CUDA's embedding in every block format, columns of rows, single rows, and the mean of all, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.graph.block_formats import BLOCK_FORMATS
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import f32, i32, reference, weight

RNG = np.random.default_rng(3)
SIZES = (1, 2, 7, 8, 9, 33, 257)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


TABLES = {fmt: weight(fmt, 19, 3 * form.elements if form.elements > 1 else 53) for fmt, form in BLOCK_FORMATS.items()}
EMBED = {fmt: request("embed", [i32("n"), table.type], scale=1.0) for fmt, table in TABLES.items()}
SCALED = request("embed", [i32("n"), TABLES["Q8_0"].type], scale=3.5)
COLUMNS = {count: request("columns", [f32("n", 60)], start=60 - count, stop=60) for count in (1, 16, 53)}
INNER_COLUMNS = request("columns", [f32("n", 60)], start=7, stop=30)
COLUMNS_OF_EXPERTS = request("columns", [f32("n", 3, 60)], start=7, stop=30)
LAST_ROWS = {columns: request("last_row", [f32("n", columns)]) for columns in (1, 60, 300)}
FIRST_ROW, MEAN = request("first_row", [f32("n", 60)]), request("mean_rows", [f32("n", 300)])


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.parametrize("fmt", EMBED)
def test_embedding_rows_are_decoded_exactly(fmt: str, kernels: CudaKernels) -> None:
    table = TABLES[fmt]
    for n in (1, 2, 7, 33):
        tokens = RNG.integers(0, 19, n).astype(np.int32)
        tokens[0], tokens[-1] = 0, 18
        got = kernels.run(EMBED[fmt], [tokens, table], (n, int(table.type.dims[1])))
        assert nmse(got, reference(EMBED[fmt], [tokens, table])) < 1e-13


def test_embedding_scale(kernels: CudaKernels) -> None:
    tokens = np.array([4, 1, 4], dtype=np.int32)
    got = kernels.run(SCALED, [tokens, TABLES["Q8_0"]], (3, 96))
    assert nmse(got, reference(SCALED, [tokens, TABLES["Q8_0"]])) < 1e-13


def test_copies_are_exact(kernels: CudaKernels) -> None:
    for n in SIZES:
        x = activations(n, 60)
        for count, what in COLUMNS.items():
            assert kernels.run(what, [x], (n, count)).tobytes() == x[:, 60 - count :].tobytes()
        assert kernels.run(INNER_COLUMNS, [x], (n, 23)).tobytes() == x[:, 7:30].tobytes()
        each = activations(n, 3, 60)
        assert kernels.run(COLUMNS_OF_EXPERTS, [each], (n, 3, 23)).tobytes() == each[..., 7:30].tobytes()
        for columns, what in LAST_ROWS.items():
            rows = activations(n, columns)
            assert kernels.run(what, [rows], (1, columns)).tobytes() == rows[-1:].tobytes()
        x = activations(n, 60)
        assert kernels.run(FIRST_ROW, [x], (1, 60)).tobytes() == x[:1].tobytes()


def test_the_mean_of_all_rows(kernels: CudaKernels) -> None:
    for n in SIZES:
        x = activations(n, 300)
        got = kernels.run(MEAN, [x], (1, 300))
        assert nmse(got, reference(MEAN, [x])) < 1e-11
        assert n > 1 or got.tobytes() == x.tobytes()
