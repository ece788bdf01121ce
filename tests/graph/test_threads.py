"""Work on pieces in threads: the order of results, NumPy's treatment of errors, and BLAS's own threads meanwhile."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from aprgraph.graph import blas_threads, threads
from aprgraph.graph.ops.linear import multiplied


@pytest.fixture(params=(1, 3))
def processors(request: pytest.FixtureRequest) -> object:
    """So many threads, whatever this machine has."""
    threads._pool.cache_clear()
    with mock.patch.object(threads, "threads", return_value=request.param):
        yield
    threads._pool.cache_clear()


@pytest.mark.usefixtures("processors")
def test_results_come_in_order_and_a_failure_is_raised() -> None:
    assert list(threads.in_threads(lambda piece: piece * piece, range(20))) == [piece * piece for piece in range(20)]
    assert list(threads.in_threads(len, [])) == []

    def fail(piece: int) -> int:
        if piece == 7:
            raise KeyError(piece)
        return piece

    found = threads.in_threads(fail, range(20))
    assert [next(found) for _ in range(7)] == list(range(7))
    with pytest.raises(KeyError):
        next(found)


@pytest.mark.usefixtures("processors")
def test_numpys_errors_are_treated_as_where_it_is_called() -> None:
    pieces = [np.array([1e300])] * 6
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        list(threads.in_threads(lambda piece: piece * piece, pieces))
    seen: list[str] = []
    with np.errstate(over="call", call=lambda kind, _: seen.append(kind)):
        assert len(list(threads.in_threads(lambda piece: piece * piece, pieces))) == len(seen) == 6
    with np.errstate(over="ignore"):  # a warning would be an error here
        assert np.isinf(list(threads.in_threads(lambda piece: piece * piece, pieces))).all()


def test_a_product_has_the_same_bits_by_any_number_of_threads() -> None:
    random = np.random.default_rng(0)
    for n in (1, 7, 300):
        x, weight = random.normal(size=(n, 640)), random.normal(size=(1000, 640))
        found = []
        for count in (1, 2, 3):
            threads._pool.cache_clear()
            with mock.patch.object(threads, "threads", return_value=count):
                found.append(multiplied(x, weight))
        threads._pool.cache_clear()
        assert all(np.array_equal(one, found[0]) for one in found)
        np.testing.assert_allclose(found[0], x @ weight.T, rtol=0, atol=1e-12)


def test_blas_has_one_thread_meanwhile_and_its_own_number_afterwards() -> None:
    functions = blas_threads._functions()
    assert functions is not None, "NumPy's wheels are linked with OpenBLAS"
    get, set_to = functions
    before = get()
    try:
        set_to(2)
        with blas_threads.one_blas_thread(), blas_threads.one_blas_thread():
            assert get() == 1
        assert get() == 2
    finally:
        set_to(before)
