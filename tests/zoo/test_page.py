"""The zoo as a whole: what it has, and the head of its page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.zoo.__main__ import main
from tests.zoo.check import Finding, Result
from tests.zoo.explained import EXPLAINED_BY, UNEXPLAINED
from tests.zoo.faults import FAULTS
from tests.zoo.subjects import FAMILIES
from tests.zoo.suite import PAGE
from tests.zoo.table import parse_rows, parse_sections, row_of, summary_of


@pytest.mark.contract("ZOO-TABLE-1")
def test_the_page_is_the_sum_of_its_sections() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sections = parse_sections(text)
    assert list(sections) == list(FAMILIES)
    assert text == "\n".join([summary_of(sections.values()), *sections.values()])


@pytest.mark.contract("ZOO-TABLE-1")
def test_every_fault_has_a_family() -> None:
    """The rows of each family are looked at in suite.py."""
    sections = parse_sections(PAGE.read_text(encoding="utf-8"))
    assert {row.fault for section in sections.values() for row in parse_rows(section)} == {fault.name for fault in FAULTS}


def test_the_zoo_asks_what_is_meant_before_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in (["--help"], 0), (["lama"], 2):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == code
    said = capsys.readouterr()
    assert "FAMILY" in said.out
    assert "no family 'lama'; expected some of llama, " in said.err


def test_every_family_has_a_file_of_tests() -> None:
    files = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")} - {"page"}
    assert files == {family.replace("-", "_") for family in FAMILIES}


@pytest.mark.contract("ZOO-SIZE-1")
def test_there_are_enough_different_faults() -> None:
    assert len(FAULTS) >= 30
    for texts in ([fault.name for fault in FAULTS], [fault.summary for fault in FAULTS]):
        assert [text for text, count in Counter(texts).items() if count > 1] == []
    assert {fault.name for fault in FAULTS} - {*EXPLAINED_BY, *UNEXPLAINED} == {"thoughts in the template", "two tokens of beginning"}
    assert {fault.kind for fault in FAULTS} == {"graph", "weights", "kernel", "input"}


def test_a_row_counts_what_was_missed() -> None:
    found, missed = Finding(("ffn_out",)), Finding(("attn_out",), "first is attn_out")
    results = [Result("a fault", "llama", f"layer {layer}", found, missed if layer else found) for layer in (0, 1)]
    assert str(row_of(results)) == "| a fault | layers 0, 1 | 2/2 | 1/2 | ffn_out |"
    assert parse_rows(str(row_of(results))) == [row_of(results)]
    assert [result.found for result in results] == [True, False]
