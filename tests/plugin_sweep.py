"""Of the longest sweeps `make test` runs a part, and `make sweep` the rest.

A test that runs for every family times every arithmetic grows with both. It says ``@pytest.mark.each_choice``, and of its cases
those stay in ``make test`` that make an *each-choice* covering: every value of every parameter is in one of them, or in
``least`` of them. The others get the marker ``sweep``, which pyproject.toml deselects. Nothing is chosen at random.

What is covered are the parameters of the test, and its class where several inherit it. ``of`` says it otherwise, as strings, from
the parameters, and the class if there is one as ``cls``: ``@pytest.mark.each_choice(of=lambda golden: golden.stages)``.

What is too long for ``make sweep`` says ``@pytest.mark.each_choice(at="sweep")``: the part is that of ``make sweep``, and
the others get the marker ``whole``, which `pytest -m whole` runs.

The part is chosen among what was collected, so one file, or one case by its name, may run more than it adds to `make test`.
To run all of some files: ``pytest -m "" FILE ...``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence

import pytest

CHOICES, REST, WHOLE = "each_choice", "sweep", "whole"
#: Of each test with the marker, by its name: what each of its cases chooses, and whether `make test` runs the case.
SWEEPS = pytest.StashKey[dict[str, list[tuple[frozenset[Hashable], bool]]]]()


def each_choice(cases: Sequence[Collection[Hashable]], least: int = 1) -> set[int]:
    """The indices of few cases among which every value of any case is at least ``least`` times, or as often as there is one.

    Each is a case with the most values that are still missing, and of those the one whose values were met least.
    """
    having: dict[Hashable, list[int]] = {}
    for index, case in enumerate(cases):
        for value in case:
            having.setdefault(value, []).append(index)
    met: Counter[Hashable] = Counter()
    chosen: set[int] = set()
    for times in range(least):
        for value, those in having.items():
            left = [index for index in those if index not in chosen]
            if met[value] > times or not left:
                continue
            best = min(left, key=lambda i: (sum(met[one] > times for one in cases[i]), sum(met[one] for one in cases[i]), i))
            chosen.add(best)
            met.update(cases[best])
    return chosen


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{CHOICES}(of=..., least=1, at=...): `make test`, or `make sweep`, runs cases in which each parameter has each of its values",
    )
    config.addinivalue_line("markers", f"{REST}: a case that `make sweep` runs, and `make test` does not")
    config.addinivalue_line("markers", f"{WHOLE}: a case that neither runs")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before anything is deselected, so that no option changes what the part is."""
    tests: dict[str, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker(CHOICES):
            tests.setdefault(f"{item.function.__module__}.{item.function.__qualname__}", []).append(item)
    sweeps = config.stash.setdefault(SWEEPS, {})
    for name, cases in tests.items():
        marker = cases[0].get_closest_marker(CHOICES)
        assert marker is not None
        choices = [_choices(item, marker) for item in cases]
        part = each_choice(choices, marker.kwargs.get("least", 1))
        sweeps[name] = [(frozenset(choice), index in part) for index, choice in enumerate(choices)]
        is_of_sweep = marker.kwargs.get("at") == REST
        for index, item in enumerate(cases):
            if index not in part:
                item.add_marker(WHOLE if is_of_sweep else REST)
            elif is_of_sweep:
                item.add_marker(REST)


def _choices(item: pytest.Function, marker: pytest.Mark) -> list[Hashable]:
    """The values that a case chooses, each with the name of its parameter."""
    callspec = getattr(item, "callspec", None)  # a test without parameters, which several classes inherit, has none
    given = {} if callspec is None else callspec.params
    if "of" in marker.kwargs:
        chosen = marker.kwargs["of"](**given, **({} if item.cls is None else {"cls": item.cls}))
        return sorted(chosen)  # of a set, in an order that all processes have
    return [("class", item.cls), *((name, _value(value)) for name, value in given.items())]


def _value(value: object) -> Hashable:
    """The value itself, so that a parameter of several that vary together counts as one; of what has no hash, which object it is."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
