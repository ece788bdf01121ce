"""The part of each sweep that `make test` runs meets every value, and every family is in some of them."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from aprgraph.graph.families import FAMILIES
from tests.plugin_sweep import SWEEPS, each_choice


@pytest.mark.parametrize("least", [1, 2, 3])
def test_every_value_is_met_by_few_cases(least: int) -> None:
    cases = [*itertools.product("abcdefg", range(3))]
    part = each_choice(cases, least)
    met = Counter(value for index in part for value in cases[index])
    assert min(met[value] for value in {*itertools.chain(*cases)}) >= least
    assert len(part) == 7 * least


def test_values_that_few_cases_have_are_met_as_often_as_there_are_cases() -> None:
    cases = [("rare", "x"), *(("usual", letter) for letter in "xyz"), ("alone",), ()]
    assert {0, 4} <= each_choice(cases, 2)
    assert 5 not in each_choice(cases, 2)


def test_each_value_is_met_about_as_often_as_the_others() -> None:
    cases = [*itertools.product(range(8), range(35))]
    met = Counter(cases[index][0] for index in each_choice(cases))
    assert sum(met.values()) == 35
    assert {*met.values()} == {4, 5}


def test_what_make_test_leaves_out_was_met_otherwise(request: pytest.FixtureRequest) -> None:
    """Of whatever was collected in this process; the whole suite in `make test`."""
    for name, cases in request.config.stash[SWEEPS].items():
        every, part = ({value for choices, chosen in cases if chosen or whole for value in choices} for whole in (True, False))
        assert every == part, name


def test_every_family_is_in_the_part(request: pytest.FixtureRequest) -> None:
    met = {True: set(), False: set()}
    for cases in request.config.stash[SWEEPS].values():
        for choices, chosen in cases:
            met[chosen] |= {choice[1] for choice in choices if choice[0] == "family"}
    if not any(met.values()):
        pytest.skip("no sweep over the families was collected here; `make test` collects all")
    own = {name for name, family in FAMILIES.items() if family.__module__.startswith("aprgraph.graph.families.")}  # not a test's
    assert len(own) > 40
    assert met[True] >= own
