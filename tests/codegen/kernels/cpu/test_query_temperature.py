"""The kernel of the temperature of queries, on every CPU level."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.kernels import RUNNABLE, i32, reference, request, run

POSITIONS = np.array([0, 1, 16383, 16384, 40000, 1 << 24, (1 << 31) - 1], np.int32)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=[cpu.name for cpu in RUNNABLE])
@pytest.mark.parametrize("offset", [0, 1])
def test_it_is_that_of_float64_rounded_once(offset: int, cpu: Cpu) -> None:
    what = request("query_temperature", [i32("n")], strength=0.1, span=16384, offset=offset)
    expected = reference(what, [POSITIONS]).astype(np.float32)
    np.testing.assert_allclose(run(what, [POSITIONS], (len(POSITIONS), 1), cpu), expected, rtol=6e-8)
