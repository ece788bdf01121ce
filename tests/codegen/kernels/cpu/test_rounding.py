"""Kernels that round activations, on every CPU level: bit for bit what the declarations say."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.roundings import BLOCK_SCHEMES, ELEMENT_SCHEMES
from aprgraph.graph.roundings import ROUNDINGS
from tests.support.kernels import RUNNABLE, f32, reference, request, run, set_threads
from tests.support.roundings import ROWS, WITH_SUMS, assert_same_bits, hard_rows, passes

CPU_IDS = [cpu.name for cpu in RUNNABLE]


def test_every_scheme_has_a_kernel() -> None:
    assert {*BLOCK_SCHEMES, *ELEMENT_SCHEMES} == set(ROUNDINGS)
    assert set(ELEMENT_SCHEMES) == {name for name, rounding in ROUNDINGS.items() if rounding.elements == 1}


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("scheme", ROUNDINGS)
def test_a_rounding_has_the_bits_of_its_declaration(scheme: str, cpu: Cpu) -> None:
    x, what = hard_rows(512), request("round", [f32("n", 512)], scheme=scheme)
    for rows in passes(scheme):
        part = x[rows].copy()
        assert_same_bits(run(what, [part], part.shape, cpu), reference(what, [part]))


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("scheme", WITH_SUMS)
def test_what_kept_sums_are_off(scheme: str, cpu: Cpu) -> None:
    x, what = hard_rows(512), request("round_sum_errors", [f32("n", 512)], scheme=scheme)
    for rows in passes(scheme):
        part = x[rows].copy()
        # Added 0, so that a zero has no sign: it is added to something.
        got = run(what, [part], (len(part), 512 // ROUNDINGS[scheme].elements), cpu) + np.float32(0)
        with np.errstate(all="ignore"):
            assert_same_bits(got, reference(what, [part]) + 0.0)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(("scheme", "width"), [("f16", 5), ("bf16", 13), ("q8_0_avx", 64), ("q8_k", 256)])
def test_rows_of_experts_and_of_any_width(scheme: str, width: int, cpu: Cpu) -> None:
    x = hard_rows(512)[:, :width].reshape(4, 3, width).copy()
    what = request("round", [f32("n", 3, width)], scheme=scheme)
    assert_same_bits(run(what, [x], x.shape, cpu), reference(what, [x]))


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_squares_of_attention(cpu: Cpu) -> None:
    x = hard_rows(512)[:, :33].reshape(2, 6, 33).copy()
    what = request("round", [f32(2, "n", "t")], scheme="f16")
    assert_same_bits(run(what, [x], x.shape, cpu), reference(what, [x]))


@pytest.mark.contract("DET-THREADS-1")
def test_threads_and_other_positions_change_nothing() -> None:
    x, what = hard_rows(512), request("round", [f32("n", 512)], scheme="q8_k")
    whole = run(what, [x], x.shape, RUNNABLE[-1])
    for threads in (1, 3):
        set_threads(threads)
        for row in range(ROWS):
            assert run(what, [x[row : row + 1].copy()], (1, 512), RUNNABLE[-1]).tobytes() == whole[row : row + 1].tobytes()
