"""CUDA's kernels with a state of fixed size, and what goes with them, emulated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from tests.support.cuda_emulator import InOut, Out
from tests.support.cuda_kernels import CudaKernels, Requests
from tests.support.golden import nmse
from tests.support.kernels import Weight, f32, reference, weight

RNG = np.random.default_rng(3)
PARTS = (0, 1, 4, 13)
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


KERNEL, BIAS, FACTORS, FACTOR = weight("BF16", 53, 4), weight("F32", 53), weight("F16", 60), weight("F16", 1)
CONV = request("short_conv", [f32("n", 53), KERNEL.type, BIAS.type])
RULES = [
    request("delta_rule", [f32("n", 14), f32("n", 14), f32("n", 76), f32("n", 4), f32("n", 4)], key_heads=2, scale=0.3, **tiled)
    for tiled in ({}, {"tiled": True})
]
SKIP = weight("BF16", 6)
SCANS = [
    request("ssm_scan", [f32("n", 114), f32("n", 7 * groups), f32("n", 7 * groups), f32("n", 6), f32("n", 6), SKIP.type], groups=groups)
    for groups in (1, 3)
]
RATES = weight("F32", 6, 7)
OF_COLUMNS = request("ssm_scan", [f32("n", 6), f32("n", 7), f32("n", 7), f32("n", 6), f32("n", 6), SKIP.type, RATES.type], groups=1)
NORM = request("l2_norm", [f32("n", 120)], eps=1e-6, groups=2)
SCALED, ALL_SCALED = (request("scale_columns", [f32("n", 60), factors.type]) for factors in (FACTORS, FACTOR))


@pytest.fixture(scope="module")
def kernels() -> CudaKernels:
    return CudaKernels(request)


def check_state(
    kernels: CudaKernels, what: KernelRequest, rows: Sequence[np.ndarray], weights: Sequence[Weight], state: tuple[int, ...], columns: int
) -> None:
    """One pass and several give the same bits, those of the reference but for rounding."""

    def passes(ends: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        held, parts = np.zeros(state, np.float32), []
        for start, end in pairwise(ends):
            given = [*(x[start:end].copy() for x in rows), *(one.stored for one in weights)]
            held, part = kernels.outputs(what.symbol, [*given, InOut(held), Out((end - start, columns))])
            parts.append(part)
        return np.concatenate(parts), held

    whole, held = passes((PARTS[0], PARTS[-1]))
    parts, held_then = passes(PARTS)
    assert parts.tobytes() == whole.tobytes()
    assert held_then.tobytes() == held.tobytes()
    assert nmse(whole, reference(what, [*rows, *weights])) < 1e-12


@pytest.mark.contract("CUDA-KERNELS-1")
def test_short_conv(kernels: CudaKernels) -> None:
    check_state(kernels, CONV, [activations(PARTS[-1], 53)], [KERNEL, BIAS], (3, 53), 53)


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("rule", RULES, ids=["neighbours", "tiled"])
def test_delta_rule(rule: KernelRequest, kernels: CudaKernels) -> None:
    n = PARTS[-1]
    q, k, v = activations(n, 14), activations(n, 14) / 4, activations(n, 76)
    decay, beta = -np.abs(activations(n, 4)), np.abs(activations(n, 4)) / 2
    check_state(kernels, rule, [q, k, v, decay, beta], [], (4, 7, 19), 76)


@pytest.mark.contract("CUDA-KERNELS-1")
@pytest.mark.parametrize("scan", SCANS, ids=["one group", "three groups"])
def test_ssm_scan(scan: KernelRequest, kernels: CudaKernels) -> None:
    n, columns = PARTS[-1], int(scan.operands[1].dims[1])
    x, b, c = activations(n, 114), activations(n, columns), activations(n, columns)
    decay, step = -np.abs(activations(n, 6)), np.abs(activations(n, 6))
    check_state(kernels, scan, [x, b, c, decay, step], [SKIP], (6, 7, 19), 114)


@pytest.mark.contract("CUDA-KERNELS-1")
def test_ssm_scan_with_rates(kernels: CudaKernels) -> None:
    n = PARTS[-1]
    x, b, c, step = activations(n, 6), activations(n, 7), activations(n, 7), np.abs(activations(n, 6))
    check_state(kernels, OF_COLUMNS, [x, b, c, step, step], [SKIP, RATES], (6, 7, 1), 6)


@pytest.mark.contract("CUDA-KERNELS-1")
def test_l2_norm_and_scaled_columns(kernels: CudaKernels) -> None:
    for n in (1, 9):
        x = activations(n, 60)
        for what, operands in ((NORM, [activations(n, 120)]), (SCALED, [x, FACTORS]), (ALL_SCALED, [x, FACTOR])):
            assert nmse(kernels.run(what, operands, (n, what.operands[0].dims[1])), reference(what, operands)) < 1e-12
