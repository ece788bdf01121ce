"""Tensors that hold what another stage holds."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.runtime.blame import twins as module
from aprgraph.runtime.blame.twins import Twins
from aprgraph.runtime.place import Place
from tests.support.traces import values


def test_a_twin_is_of_the_same_step_and_size_the_first_of_several_and_recorded_if_one_was() -> None:
    twins = Twins()
    mine, other = values(3, 40), values(3, 40, seed=1)
    key = Place(1, 5, "ffn_up")
    twins.see(Place(0, 1, "ffn_up"), mine, mine)  # of another step
    twins.see(Place(1, 2, "ffn_up"), mine[:2], mine[:2])  # of another size
    twins.see(Place(1, 3, "ffn_up"), None, mine)  # computed
    twins.see(key, mine, other)
    assert twins.find(key) == Place(1, 3, "ffn_up")
    twins.see(Place(1, 6, "ffn_up"), mine * np.float32(1 + 5e-5), other)
    twins.see(Place(1, 7, "ffn_up"), mine, other)
    assert twins.find(key) == Place(1, 6, "ffn_up")
    assert twins.find(Place(1, 3, "ffn_up")) is None  # not recorded
    twins.see(key, mine * np.float32(1 + 3e-4), other)
    assert twins.find(key) is None


def test_what_is_found_is_what_one_against_each_finds() -> None:
    """Among tensors of few different elements too, where the one that they are found by tells nothing."""
    twins = Twins()
    random = np.random.default_rng(0)
    held = {Place(0, layer, "ffn_up"): random.integers(0, 2, 6).astype(np.float32) for layer in range(200)}
    for key, one in held.items():
        twins.see(key, one, one + 9)
    for key, one in held.items():
        first = next((other for other, two in held.items() if other != key and np.array_equal(one, two)), None)
        assert twins.find(key) == (first if one.any() else None)


def test_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand layers each against each took minutes."""
    twins = Twins()
    for layer in range(500):
        one = values(64, seed=layer)
        twins.see(Place(0, layer, "ffn_up"), one, one + 9)
    looked = []
    largest = np.abs
    monkeypatch.setattr(module.np, "abs", lambda x: (looked.append(np.size(x)), largest(x))[1])
    assert all(twins.find(Place(0, layer, "ffn_up")) is None for layer in range(500))
    assert sum(looked) < 500 * 64 * 20
