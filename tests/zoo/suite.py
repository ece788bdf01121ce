"""The tests of one family; tests/zoo/test_<family>.py has a subclass of each, so that processes take whole families."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.graphs import ops_of
from tests.zoo.results import faults_of, noise_results_of, results_of, sample_of, sparse_results_of
from tests.zoo.subjects import FAMILIES
from tests.zoo.table import about, parse_rows, parse_sections, section_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bug-zoo.md"


def _ops(cls: type[FaultTests]) -> set[str]:
    return ops_of(FAMILIES[cls.family].get("family", cls.family))


class FaultTests:
    """``fault`` runs over the faults that the family can have (see conftest.py), each at one of its places: all of them take minutes.

    `make test` takes some of them, so that each fault is met in several families and each family with several faults; `make sweep`
    takes the others, and all places in families that have every op between them; `make zoo` all at every place, and right runs too.
    """

    family: ClassVar[str]

    @pytest.mark.each_choice(least=2)
    @pytest.mark.contract("ZOO-VALUES-1", "ZOO-BLAME-1", "ZOO-VISIBLE-1")
    def test_a_fault_is_found(self, fault: str) -> None:
        result = sample_of(self.family, fault)
        assert result.found, str(result)
        assert result.unexplained is None, f"{result.fault}, {result.place}: {result.unexplained}"
        row = next(row for row in parse_rows(self._section()) if row.fault == fault)
        assert (row.values, row.blame) == (row.cases, row.cases)
        assert result.place.removeprefix("layer ") in row.places
        assert set(result.values.named) <= set(row.named.split(", "))

    @pytest.mark.each_choice(of=_ops)
    @pytest.mark.contract("ZOO-SPARSE-1")
    def test_a_fault_is_found_with_few_taps(self) -> None:
        assert [str(result) for result in sparse_results_of(self.family) if not result.found] == []

    @pytest.mark.sweep
    @pytest.mark.contract("ZOO-TABLE-1")
    def test_every_fault_of_the_family_has_a_row(self) -> None:
        assert [row.fault for row in parse_rows(self._section())] == [fault.name for fault in faults_of(self.family)]

    @pytest.mark.each_choice(of=_ops, at="sweep")
    @pytest.mark.contract("ZOO-TABLE-1")
    def test_the_section_is_what_all_cases_give(self) -> None:
        assert section_of(self.family) == self._section()

    @pytest.mark.each_choice(of=_ops, at="sweep")
    @pytest.mark.contract("ZOO-EXPLAINED-1")
    def test_every_case_is_explained(self) -> None:
        results = [result for fault in faults_of(self.family) for result in results_of(self.family, fault.name)]
        assert [f"{result.fault}, {result.place}: {result.unexplained}" for result in results if result.unexplained is not None] == []

    def _section(self) -> str:
        return parse_sections(PAGE.read_text(encoding="utf-8"))[self.family]


class FamilyTests(FaultTests):
    """Right runs too: in `make test` of families that have every op between them."""

    @pytest.mark.each_choice(of=_ops)
    @pytest.mark.contract("ZOO-NOISE-1")
    def test_right_runs_are_not_flagged(self) -> None:
        assert [str(result) for result in noise_results_of(self.family) if not result.passed] == []

    @pytest.mark.each_choice(of=_ops)
    @pytest.mark.contract("ZOO-TABLE-1")
    def test_what_the_section_says_of_right_runs_and_of_few_taps(self) -> None:
        assert about(self.family) in self._section().splitlines()
