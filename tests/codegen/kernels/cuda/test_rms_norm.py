"""CUDA's RMSNorm kernel, emulated."""

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


def _norm(fmt: str, columns: int, groups: int, eps: float = 1e-5, *, of_each: bool = False) -> tuple[KernelRequest, Weight]:
    w = weight(fmt, *([groups] if of_each else []), columns // groups)
    return request("rms_norm", [f32("n", columns), w.type], eps=eps, groups=groups), w


#: Rows of up to 512 are summed by one warp, others by eight.
NORMS = [
    *(_norm("F32", *sizes) for sizes in ((64, 1), (53, 1), (3, 1), (96, 4), (60, 5), (512, 1), (513, 1), (2000, 2))),
    _norm("F16", 70, 2), _norm("BF16", 600, 1), _norm("Q8_0", 96, 1), _norm("Q4_K", 768, 1),
    _norm("F32", 60, 5, of_each=True), _norm("F16", 1200, 2, of_each=True),
]  # fmt: skip
PLAIN_NORMS = [request("rms_norm", [f32("n", columns)], eps=1e-5, groups=groups) for columns, groups in ((60, 5), (600, 1))]
EXTREME_NORM = _norm("F32", 40, 1, 1e-6)


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("what", NORMS, ids=[f"{w.type} of {r.operands[0].dims[1]}/{r.attrs['groups']}" for r, w in NORMS])
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


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("what", PLAIN_NORMS, ids=["heads", "a row"])
def test_without_weights(what: KernelRequest, kernels: CudaKernels) -> None:
    columns = int(what.operands[0].dims[1])
    for n in (1, 9):
        x = activations(n, columns)
        assert nmse(kernels.run(what, [x], (n, columns)), reference(what, [x])) < 1e-12


def test_rms_norm_of_zeros_and_of_huge_values(kernels: CudaKernels) -> None:
    norm, w = EXTREME_NORM
    x = np.stack([np.zeros(40), np.full(40, 1e15), np.full(40, 1e-15)]).astype(np.float32)
    got, expected = kernels.run(norm, [x, w], (3, 40)), reference(norm, [x, w])
    for row in range(3):
        np.testing.assert_allclose(got[row], expected[row], rtol=1e-5)
