"""CUDA's kernels that add biases, and a row of a table, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import Weight, f32, reference, weight

RNG = np.random.default_rng(3)
SIZES = (1, 2, 7, 8, 9, 33, 257)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _bias(*pieces: tuple[str, int]) -> tuple[KernelRequest, list[Weight]]:
    biases = [weight(fmt, columns, seed=number) for number, (fmt, columns) in enumerate(pieces)]
    return request("bias_add", [f32("n", sum(count for _, count in pieces)), *(b.type for b in biases)]), biases


BIASES = [_bias(("F32", 9), ("F16", 4), ("BF16", 21)), _bias(("F32", 300)), _bias(("Q8_0", 64), ("F32", 7))]

TABLES = {fmt: weight(fmt, 3, 64) for fmt in ("F32", "F16", "Q8_0")}
ROWS = {fmt: request("row_add", [f32("n", 64), table.type], row=1) for fmt, table in TABLES.items()}


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.parametrize("what", BIASES, ids=[" ".join(b.type.dtype for b in biases) for _, biases in BIASES])
def test_biases_lie_side_by_side(what: tuple[KernelRequest, list[Weight]], kernels: CudaKernels) -> None:
    for n in SIZES:
        x = activations(n, int(what[0].operands[0].dims[1]))
        assert nmse(kernels.run(what[0], [x, *what[1]], x.shape), reference(what[0], [x, *what[1]])) < 1e-13


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("fmt", TABLES)
def test_every_row_gets_the_same_row_of_the_table(fmt: str, kernels: CudaKernels) -> None:
    for n in SIZES:
        x = activations(n, 64)
        assert nmse(kernels.run(ROWS[fmt], [x, TABLES[fmt]], x.shape), reference(ROWS[fmt], [x, TABLES[fmt]])) < 1e-13
