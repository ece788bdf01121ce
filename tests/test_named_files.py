"""Files and folders that documents name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        ROOT / "contracts/README.md",
        ROOT / "tests/golden/README.md",
    ]
)
#: A path below one of the repository's folders, not within a longer one.
PATH = re.compile(r"(?<![\w/.~-])(?:graph|codegen|runtime|aprgraph|tests|bench|docs|contracts|examples)/[\w./*-]*\w")
#: Modules of the package may be named without their suffix.
SUFFIXES = ("", ".py")


def missing(text: str) -> list[str]:
    """The paths in a text that match nothing in the repository."""
    return [path for path in PATH.findall(text) if not any(any(ROOT.glob(path + suffix)) for suffix in SUFFIXES)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_is_there(document: Path) -> None:
    assert missing(document.read_text(encoding="utf-8")) == []


def test_a_file_that_is_not_there_is_noticed() -> None:
    assert missing("see `graph/stages.py`, `graph/lost.py` and docs/*.md") == ["graph/lost.py"]


def test_the_page_of_places_names_files() -> None:
    assert len(set(PATH.findall((ROOT / "docs/where.md").read_text(encoding="utf-8")))) > 20
