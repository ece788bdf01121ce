"""The embedding in every block format; columns of rows, single rows, and the mean of all."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.graph.block_formats import BLOCK_FORMATS
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, columns_of, f32, i32, reference, request, run, weight

RNG = np.random.default_rng(3)


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("columns", [1, 16, 53])
def test_copies_are_exact(columns: int) -> None:
    x = activations(5, 60)
    what = request("columns", [f32("n", 60)], start=60 - columns, stop=60)
    assert run(what, [x], (5, columns), RUNNABLE[-1]).tobytes() == np.ascontiguousarray(x[:, 60 - columns :]).tobytes()
    each = request("columns", [f32("n", 3, 60)], start=60 - columns, stop=60)
    rows = activations(5, 3, 60)
    assert run(each, [rows], (5, 3, columns), RUNNABLE[-1]).tobytes() == np.ascontiguousarray(rows[..., 60 - columns :]).tobytes()
    last = request("last_row", [f32("n", 60)])
    assert run(last, [x], (1, 60), RUNNABLE[-1]).tobytes() == x[-1:].tobytes()
    first = request("first_row", [f32("n", 60)])
    assert run(first, [x], (1, 60), RUNNABLE[-1]).tobytes() == x[:1].tobytes()


@pytest.mark.parametrize("columns", [1, 16, 53])
def test_the_mean_of_all_rows(columns: int) -> None:
    what = request("mean_rows", [f32("n", columns)])
    for n in (1, 2, 9, 700):
        x = activations(n, columns)
        got = run(what, [x], (1, columns), RUNNABLE[-1])
        assert nmse(got, reference(what, [x])) < 1e-11
        assert n > 1 or got.tobytes() == x.tobytes()
    x[3, 0] = np.nan
    got = run(what, [x], (1, columns), RUNNABLE[-1])
    assert np.isnan(got[0, 0])
    assert np.isfinite(got[0, 1:]).all()


@pytest.mark.parametrize("fmt", BLOCK_FORMATS)
def test_embedding_rows_are_decoded_exactly(fmt: str) -> None:
    table = weight(fmt, 19, columns_of(fmt))
    what = request("embed", [i32("n"), table.type], scale=1.0)
    tokens = np.array([18, 0, 7, 7], dtype=np.int32)
    got = run(what, [tokens, table], (4, columns_of(fmt)), RUNNABLE[-1])
    assert nmse(got, reference(what, [tokens, table])) < 1e-13


def test_embedding_scale() -> None:
    table = weight("F32", 5, 10)
    what = request("embed", [i32("n"), table.type], scale=3.5)
    tokens = np.array([4, 1], dtype=np.int32)
    assert nmse(run(what, [tokens, table], (2, 10), RUNNABLE[-1]), reference(what, [tokens, table])) < 1e-13
