"""Flash attention as ggml computes it, on every CPU level."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.flash_attention import ALWAYS, DIVIDED, HEADS, SHAPES, activations, assert_divided, assert_online, assert_tiles, flash
from tests.support.kernels import RUNNABLE, request, run, set_threads

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(5)


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("name", SHAPES)
def test_flash_attention(name: str, cpu: Cpu) -> None:
    what, (_, _, values, _) = flash(name, request), SHAPES[name]
    for n, t in ((1, 1), (1, 9), (7, 7), (3, 40), (63, 63)):
        operands = activations(RNG, n, t, what)
        assert_online(run(what, operands, (n, HEADS * values), cpu), what, operands)
    for n, t in ((64, 64), (70, 75)):
        operands = activations(RNG, n, t, what)
        assert_tiles(run(what, operands, (n, HEADS * values), cpu), what, operands)


@pytest.mark.contract("ARITHMETIC-KERNELS-1")
@pytest.mark.parametrize("name", [name if name == ALWAYS else pytest.param(name, marks=pytest.mark.sweep) for name in DIVIDED])
def test_passes_and_keys_that_are_divided(name: str) -> None:
    assert_divided(name, flash(name, request), partial(run, cpu=RUNNABLE[-1]))


def test_threads_and_a_nan_of_another_position_change_nothing() -> None:
    what = flash("a window", request)
    q, k, v = activations(RNG, 20, 20, what)
    whole = run(what, [q, k, v], (20, HEADS * 32), RUNNABLE[-1])
    set_threads(3)
    assert run(what, [q, k, v], whole.shape, RUNNABLE[-1]).tobytes() == whole.tobytes()
    for n in (1, 7, 19):
        assert run(what, [q[:n].copy(), k[:n].copy(), v[:n].copy()], (n, HEADS * 32), RUNNABLE[-1]).tobytes() == whole[:n].tobytes()
    k[12, 3] = np.nan
    dirty = run(what, [q, k, v], whole.shape, RUNNABLE[-1])
    seen = slice(12, 12 + 5)  # the window
    assert np.delete(dirty, seen, axis=0).tobytes() == np.delete(whole, seen, axis=0).tobytes()
    assert np.isnan(dirty[seen]).any(axis=1).all()
