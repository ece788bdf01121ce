"""CUDA's kernels that round activations, emulated: bit for bit what the declarations say."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.kernels.roundings import BLOCK_SCHEMES, ELEMENT_SCHEMES
from aprgraph.graph.roundings import ROUNDINGS
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.kernels import f32, reference
from tests.support.roundings import WITH_SUMS, assert_same_bits, hard_rows, passes

request = Requests()

#: Some names share a scheme; the kernels of one are enough.
DISTINCT = [*ELEMENT_SCHEMES, *{scheme: name for name, scheme in BLOCK_SCHEMES.items()}.values()]
ROUNDS = {scheme: request("round", [f32("n", 512)], scheme=scheme) for scheme in DISTINCT}
SUMS = {scheme: request("round_sum_errors", [f32("n", 512)], scheme=scheme) for scheme in DISTINCT if scheme in WITH_SUMS}
OF_EXPERTS = {scheme: request("round", [f32("n", 3, width)], scheme=scheme) for scheme, width in (("f16", 5), ("q8_0_avx", 64))}
SQUARE = request("round", [f32(2, "n", "t")], scheme="f16")


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize("scheme", ROUNDS)
def test_a_rounding_has_the_bits_of_its_declaration(scheme: str, kernels: CudaKernels) -> None:
    x, what = hard_rows(512), ROUNDS[scheme]
    for rows in passes(scheme):
        part = x[rows].copy()
        assert_same_bits(kernels.run(what, [part], part.shape), reference(what, [part]))


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize("scheme", SUMS)
def test_what_kept_sums_are_off(scheme: str, kernels: CudaKernels) -> None:
    x, what = hard_rows(512), SUMS[scheme]
    for rows in passes(scheme):
        part = x[rows].copy()
        # Added 0, so that a zero has no sign: it is added to something.
        got = kernels.run(what, [part], (len(part), 512 // ROUNDINGS[scheme].elements)) + np.float32(0)
        with np.errstate(all="ignore"):
            assert_same_bits(got, reference(what, [part]) + 0.0)


@pytest.mark.parametrize("scheme", OF_EXPERTS)
def test_rows_of_experts(scheme: str, kernels: CudaKernels) -> None:
    what = OF_EXPERTS[scheme]
    width = what.operands[0].dims[2]
    x = hard_rows(512)[:, :width].reshape(4, 3, width).copy()
    assert_same_bits(kernels.run(what, [x], x.shape), reference(what, [x]))


def test_squares_of_attention(kernels: CudaKernels) -> None:
    x = hard_rows(512)[:, :33].reshape(2, 6, 33).copy()
    assert_same_bits(kernels.run(SQUARE, [x], x.shape), reference(SQUARE, [x]))
