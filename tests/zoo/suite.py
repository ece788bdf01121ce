"""The tests of one family; tests/zoo/test_<family>.py has a subclass of each, so that processes take whole families."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from tests.zoo.results import noise_results_of, results_of, sparse_results_of
from tests.zoo.table import parse_sections, section_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bug-zoo.md"


class FamilyTests:
    """``fault`` runs over the faults that the family can have (see conftest.py)."""

    family: ClassVar[str]

    @pytest.mark.contract("ZOO-VALUES-1", "ZOO-BLAME-1", "ZOO-VISIBLE-1")
    def test_a_fault_is_found(self, fault: str) -> None:
        assert [str(result) for result in results_of(self.family, fault) if not result.found] == []

    @pytest.mark.contract("ZOO-SPARSE-1")
    def test_a_fault_is_found_with_few_taps(self) -> None:
        assert [str(result) for result in sparse_results_of(self.family) if not result.found] == []

    @pytest.mark.contract("ZOO-NOISE-1")
    def test_right_runs_are_not_flagged(self) -> None:
        assert [str(result) for result in noise_results_of(self.family) if not result.passed] == []

    @pytest.mark.contract("ZOO-TABLE-1")
    def test_the_section_of_the_page_is_true(self) -> None:
        assert parse_sections(PAGE.read_text(encoding="utf-8"))[self.family] == section_of(self.family)
