"""The linear kernel, in every block format and on every CPU level."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.graph.block_formats import BLOCK_FORMATS
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, columns_of, f32, reference, request, run, set_threads, weight

CPU_IDS = [cpu.name for cpu in RUNNABLE]
RNG = np.random.default_rng(11)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.each_choice
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize("fmt", BLOCK_FORMATS)
def test_every_format_agrees_with_the_reference_at_awkward_sizes(fmt: str, cpu: Cpu) -> None:
    """Of few positions, which a kernel multiplies otherwise than many, to the bit."""
    columns = columns_of(fmt)
    weights = [weight(fmt, rows, columns, seed=rows) for rows in (13, 1, 24)]
    what = request("linear", [f32("n", columns), *(w.type for w in weights)])
    x = activations(9, columns)
    together = run(what, [x, *weights], (9, 38), cpu)
    assert nmse(together, reference(what, [x, *weights])) < 1e-12
    for n in range(1, 9):
        assert run(what, [x[-n:].copy(), *weights], (n, 38), cpu).tobytes() == together[-n:].tobytes()


@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_segments_may_have_different_formats(cpu: Cpu) -> None:
    weights = [weight("Q4_K", 7, 256), weight("Q6_K", 5, 256), weight("F16", 3, 256)]
    what = request("linear", [f32("n", 256), *(w.type for w in weights)])
    x = activations(6, 256)
    assert nmse(run(what, [x, *weights], (6, 15), cpu), reference(what, [x, *weights])) < 1e-12


@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
def test_a_position_has_the_same_bits_alone_and_among_others(cpu: Cpu) -> None:
    w = weight("Q4_1", 29, 96)
    what = request("linear", [f32("n", 96), w.type])
    x = activations(11, 96)
    together = run(what, [x, w], (11, 29), cpu)
    for n in range(1, 8):
        for start in range(11 - n):
            part = run(what, [x[start : start + n].copy(), w], (n, 29), cpu)
            assert part.tobytes() == together[start : start + n].tobytes()


@pytest.mark.contract("DET-THREADS-1")
def test_threads_do_not_change_a_bit() -> None:
    w = weight("Q8_0", 200, 64)
    what = request("linear", [f32("n", 64), w.type])
    x = activations(17, 64)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(run(what, [x, w], (17, 200), RUNNABLE[-1]).tobytes())
    assert len(set(results)) == 1


def test_a_row_too_long_for_two_groups_in_the_cache() -> None:
    w = weight("Q4_0", 8, 8192)
    what = request("linear", [f32("n", 8192), w.type])
    x = activations(5, 8192)
    assert nmse(run(what, [x, w], (5, 8), RUNNABLE[-1]), reference(what, [x, w])) < 1e-12


def test_nan_in_one_position_stays_there() -> None:
    w = weight("Q4_1", 12, 64)
    what = request("linear", [f32("n", 64), w.type])
    x = activations(6, 64)
    clean = run(what, [x, w], (6, 12), RUNNABLE[-1])
    x[2, 5] = np.nan
    dirty = run(what, [x, w], (6, 12), RUNNABLE[-1])
    assert np.isnan(dirty[2]).all()
    assert np.delete(dirty, 2, axis=0).tobytes() == np.delete(clean, 2, axis=0).tobytes()


@pytest.mark.contract("DET-POSITION-1")
@pytest.mark.parametrize("cpu", RUNNABLE, ids=CPU_IDS)
@pytest.mark.parametrize(
    ("fmt", "rows", "columns", "n"),
    [
        ("Q8_0", 29, 1056, 9),
        ("Q8_0", 601, 1536, 133),  # more positions, and more rows, than go together
        ("Q4_K", 29, 3072, 9),
        ("Q4_K", 29, 1280, 9),  # parts that are no whole blocks
        ("F16", 29, 2048, 9),
    ],
)
def test_long_rows_are_taken_in_parts_for_the_same_bits(fmt: str, rows: int, columns: int, n: int, cpu: Cpu) -> None:
    """One position meets a whole row, many its parts."""
    w, x = weight(fmt, rows, columns), activations(n, columns)
    what = request("linear", [f32("n", columns), w.type])
    together = run(what, [x, w], (n, rows), cpu)
    np.testing.assert_allclose(together, x.astype(np.float64) @ w.decoded.T, rtol=1e-4, atol=1e-3)
    for position in (0, 1, 7, 8, n - 1):
        alone = run(what, [x[position : position + 1].copy(), w], (1, rows), cpu)
        assert alone.tobytes() == together[position : position + 1].tobytes()
