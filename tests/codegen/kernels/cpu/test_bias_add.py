"""The kernels that add biases, and a row of a table."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, reference, request, run, weight

RNG = np.random.default_rng(3)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("fmt", ["F32", "F16", "BF16"])
def test_biases_lie_side_by_side(fmt: str) -> None:
    biases = [weight(fmt, 9), weight(fmt, 4, seed=1), weight(fmt, 21, seed=2)]
    what = request("bias_add", [f32("n", 34), *(b.type for b in biases)])
    x = activations(3, 34)
    assert nmse(run(what, [x, *biases], (3, 34), RUNNABLE[-1]), reference(what, [x, *biases])) < 1e-13


def test_biases_in_blocks_beside_plain_ones() -> None:
    biases = [weight("Q8_0", 64), weight("F32", 7)]
    what = request("bias_add", [f32("n", 71), *(b.type for b in biases)])
    x = activations(3, 71)
    assert nmse(run(what, [x, *biases], (3, 71), RUNNABLE[-1]), reference(what, [x, *biases])) < 1e-13


@pytest.mark.parametrize("fmt", ["F32", "F16", "Q8_0"])
def test_every_row_gets_the_same_row_of_the_table(fmt: str) -> None:
    table = weight(fmt, 3, 64)
    what = request("row_add", [f32("n", 64), table.type], row=1)
    x = activations(5, 64)
    assert nmse(run(what, [x, table], (5, 64), RUNNABLE[-1]), reference(what, [x, table])) < 1e-13
