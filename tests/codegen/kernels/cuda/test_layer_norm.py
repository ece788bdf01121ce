"""CUDA's LayerNorm kernel, emulated."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import Weight, f32, reference, weight

RNG = np.random.default_rng(3)
request = Requests()


def _norm(columns: int, groups: int, formats: str, *rows: int) -> tuple[KernelRequest, list[Weight]]:
    weights = [weight(fmt, *rows, columns // groups, seed=seed) for seed, fmt in enumerate(formats.split())]
    return request("layer_norm", [f32("n", columns), *(w.type for w in weights)], eps=1e-5, groups=groups), weights


#: Rows of up to 512 are summed by one warp, others by eight.
NORMS = [_norm(53, 1, "F32"), _norm(60, 5, "F32 F16", 5), _norm(1216, 2, "Q8_0 F32"), _norm(100, 1, "")]


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("what", NORMS, ids=[f"{r.operands[0].dims[1]}/{r.attrs['groups']}" for r, _ in NORMS])
def test_layer_norm(what: tuple[KernelRequest, list[Weight]], kernels: CudaKernels) -> None:
    norm, weights = what
    columns = int(norm.operands[0].dims[1])
    for n in (1, 7, 33):
        x = (3 + RNG.standard_normal((n, columns))).astype(np.float32)
        got = kernels.run(norm, [x, *weights], (n, columns))
        assert nmse(got, reference(norm, [x, *weights])) < 1e-12
        assert kernels.run(norm, [x[-1:].copy(), *weights], (1, columns)).tobytes() == got[-1].tobytes()
    x[4, 0] = np.nan
    size = columns // norm.attr_int("groups")
    dirty = kernels.run(norm, [x, *weights], (n, columns))
    assert np.isnan(dirty[4, :size]).all()
    dirty[4, :size] = got[4, :size]
    assert dirty.tobytes() == got.tobytes()
