"""The kernels of AltUp's streams, and of the bound of sparse activations, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import KernelRequest
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, i32, reference, request, run, weight

RNG = np.random.default_rng(29)
STREAMS, SIZE = 4, 37

#: By op: the request, and the columns of its operands.
CASES: dict[str, tuple[KernelRequest, tuple[int, ...]]] = {
    "altup_predict": (request("altup_predict", [f32("n", STREAMS * SIZE), f32("n", STREAMS**2)]), (STREAMS * SIZE, STREAMS**2)),
    "altup_correct": (
        request("altup_correct", [f32("n", STREAMS * SIZE), f32("n", SIZE), f32("n", STREAMS)], active=1), (STREAMS * SIZE, SIZE, STREAMS),
    ),
    "stream_add": (request("stream_add", [f32("n", STREAMS * SIZE), f32("n", SIZE)], streams=STREAMS, start=1), (STREAMS * SIZE, SIZE)),
    "stream_mean": (request("stream_mean", [f32("n", STREAMS * SIZE)], streams=STREAMS), (STREAMS * SIZE,)),
    "match_rms": (request("match_rms", [f32("n", STREAMS * SIZE), f32("n", SIZE)], least=1e-5), (STREAMS * SIZE, SIZE)),
    "gaussian_top_k": (request("gaussian_top_k", [f32("n", SIZE)], factor=0.5), (SIZE,)),
    "of a sample": (request("gaussian_top_k", [f32("n", SIZE)], factor=0.5, sample=True), (SIZE,)),
}  # fmt: skip


@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.parametrize(
    ("name", "cpu"),
    [*((name, RUNNABLE[-1]) for name in CASES), *(("match_rms", cpu) for cpu in RUNNABLE[:-1])],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_streams(name: str, cpu: Cpu) -> None:
    """Close to the reference, with the same bits for a position alone, and a NaN stays in its position."""
    what, columns = CASES[name]
    operands = [RNG.standard_normal((9, count)).astype(np.float32) for count in columns]
    expected = reference(what, operands)
    whole = run(what, operands, expected.shape, cpu)
    assert nmse(whole, expected) < 1e-12
    alone = run(what, [operand[4:5].copy() for operand in operands], (1, expected.shape[1]), cpu)
    assert alone.tobytes() == whole[4].tobytes()
    operands[0][4] = np.nan
    dirty = run(what, operands, expected.shape, cpu)
    assert np.isnan(dirty[4]).all()
    assert np.delete(dirty, 4, 0).tobytes() == np.delete(whole, 4, 0).tobytes()


def test_what_is_smaller_than_the_least_stays_small() -> None:
    what, _ = CASES["match_rms"]
    x = np.full((1, STREAMS * SIZE), 1e-4, np.float32)
    got = run(what, [x, np.full((1, SIZE), 2.0, np.float32)], x.shape, RUNNABLE[-1])
    np.testing.assert_allclose(got, 1e-4 * 2.0 / np.sqrt(1e-5), rtol=1e-6)


def test_a_token_without_a_row_takes_the_first() -> None:
    table = weight("Q8_0", 5, 64)
    what = request("embed", [i32("n"), table.type], scale=1.0, first_for_others=True)
    tokens = np.array([4, 5, 0, 900], np.int32)
    got = run(what, [tokens, table], (4, 64), RUNNABLE[-1])
    assert nmse(got, reference(what, [tokens, table])) < 1e-12
    assert got[1].tobytes() == got[2].tobytes() == got[3].tobytes() != got[0].tobytes()


def test_a_row_that_all_matrices_read() -> None:
    w = weight("F32", 3, 29, 64)
    what = request("head_linear", [f32("n", 64), w.type], shared=True)
    x = RNG.standard_normal((5, 64)).astype(np.float32)
    got = run(what, [x, w], (5, 87), RUNNABLE[-1])
    assert nmse(got, reference(what, [x, w])) < 1e-12
    apart = request("head_linear", [f32("n", 192), w.type])
    assert run(apart, [np.tile(x, 3), w], (5, 87), RUNNABLE[-1]).tobytes() == got.tobytes()
