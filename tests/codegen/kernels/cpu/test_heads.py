"""Kernels of heads against the float64 reference: parts of heads, and a matrix for each head."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, reference, request, run, set_threads, weight

RNG = np.random.default_rng(17)
HEADS = 3


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shared", [False, True])
def test_parts_of_heads_are_joined_and_taken_apart_exactly(shared: bool) -> None:
    x, y = activations(5, HEADS * 19), activations(5, 7 if shared else HEADS * 7)
    what = request("join_heads", [f32("n", x.shape[1]), f32("n", y.shape[1])], heads=HEADS, **({"shared": True} if shared else {}))
    joined = run(what, [x, y], (5, HEADS * 26), RUNNABLE[-1])
    second = np.tile(y, HEADS) if shared else y
    for start, stop, part in ((0, 19, x), (19, 26, second)):
        taken = request("columns", [f32("n", HEADS * 26)], start=start, stop=stop, heads=HEADS)
        assert run(taken, [joined], part.shape, RUNNABLE[-1]).tobytes() == part.tobytes()
        np.testing.assert_array_equal(reference(taken, [joined]), part)
    np.testing.assert_array_equal(reference(what, [x, y]), joined)


@pytest.mark.contract("DET-POSITION-1", "DET-THREADS-1")
@pytest.mark.parametrize(
    ("fmt", "cpu"),
    [("Q8_0", RUNNABLE[-1]), *(("F32", cpu) for cpu in RUNNABLE)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_each_head_has_a_matrix_of_its_own(fmt: str, cpu: Cpu) -> None:
    w = weight(fmt, HEADS, 29, 64)
    what = request("head_linear", [f32("n", HEADS * 64), w.type])
    x = activations(33, HEADS * 64)
    whole = run(what, [x, w], (33, HEADS * 29), cpu)
    assert nmse(whole, reference(what, [x, w])) < 1e-12
    for position in (0, 32):
        assert run(what, [x[position : position + 1], w], (1, HEADS * 29), cpu).tobytes() == whole[position].tobytes()
    set_threads(1)
    assert run(what, [x, w], (33, HEADS * 29), cpu).tobytes() == whole.tobytes()
    set_threads(2)
