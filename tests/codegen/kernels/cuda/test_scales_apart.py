"""CUDA's kernels of weights as checkpoints have them, with scales that lie apart, or column by column, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import f32, reference, weight_in_columns, weight_with_scales

RNG = np.random.default_rng(7)
request = Requests()
#: Rows that no tile divides; a last block of FP8 that is not whole.
MATRIX = weight_with_scales("f8_e4m3_128x128", 150, 272)
EXPERTS = weight_with_scales("mxfp4_pairs", 3, 66, 96)
OF_ROWS = weight_with_scales("f8_e5m2_row", 19, 64)
COLUMNS = {layout: weight_in_columns(layout, 3, 66, 53) for layout in ("f32_columns", "bf16_columns")}
OF_COLUMNS = {layout: request("expert_linear", [f32("n", 53), f32("n", 2), w.type]) for layout, w in COLUMNS.items()}
LINEAR = request("linear", [f32("n", 272), MATRIX.type])
EXPERT_LINEAR = request("expert_linear", [f32("n", 96), f32("n", 2), EXPERTS.type])
BY_ROWS = request("linear", [f32("n", 64), OF_ROWS.type])


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("FILE-HF-7")
@pytest.mark.parametrize("n", [1, 11])
def test_fp8(kernels: CudaKernels, n: int) -> None:
    for what, w in ((LINEAR, MATRIX), (BY_ROWS, OF_ROWS)):
        rows, columns = w.type.bind()
        x = RNG.standard_normal((n, columns)).astype(np.float32)
        assert nmse(kernels.run(what, [x, w], (n, rows)), reference(what, [x, w])) < 1e-12


@pytest.mark.contract("FILE-HF-7")
@pytest.mark.parametrize("n", [1, 11])
def test_experts_in_mxfp4(kernels: CudaKernels, n: int) -> None:
    x, ids = RNG.standard_normal((n, 96)).astype(np.float32), np.stack([RNG.permutation(3)[:2] for _ in range(n)]).astype(np.float32)
    operands = [x, ids, EXPERTS]
    assert nmse(kernels.run(EXPERT_LINEAR, operands, (n, 2, 66)), reference(EXPERT_LINEAR, operands)) < 1e-12


@pytest.mark.contract("FILE-HF-7")
@pytest.mark.parametrize("layout", COLUMNS)
@pytest.mark.parametrize("n", [1, 11])
def test_experts_that_lie_column_by_column(kernels: CudaKernels, n: int, layout: str) -> None:
    x, ids = RNG.standard_normal((n, 53)).astype(np.float32), np.stack([RNG.permutation(3)[:2] for _ in range(n)]).astype(np.float32)
    operands = [x, ids, COLUMNS[layout]]
    assert nmse(kernels.run(OF_COLUMNS[layout], operands, (n, 2, 66)), reference(OF_COLUMNS[layout], operands)) < 1e-12
