"""The kernel that puts rows into the KV cache, on every CPU level."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.kernels import RUNNABLE, f32, request, run

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(3)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_a_cache_takes_the_last_rows_and_leaves_the_others(cpu: Cpu) -> None:
    what, x = request("cache", [f32("n", 13)]), activations(3, 13)
    assert run(what, [x], (3, 13), cpu).tobytes() == x.tobytes()
    with pytest.raises(AssertionError, match="elements were not written"):
        run(what, [x], (5, 13), cpu)
