"""The documents hang together: links and headings that they lead to, the site's menu, and how far it is to the command that says why.

`make docs` builds the site, strictly; this looks without building.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *PAGES,
    ROOT / "contracts/README.md",
    ROOT / "tests/golden/README.md",
]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^(?: {4}.*|```.*?^```)$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
#: The most links from the first page to the one that has the command.
CLICKS = 2


def links(document: Path, text: str | None = None) -> list[str]:
    """Where a document leads, other machines left out."""
    text = document.read_text(encoding="utf-8") if text is None else text
    return [link for link in _LINK.findall(_CODE.sub("", text)) if not re.match(r"[a-z]+:", link)]


def anchors(document: Path) -> set[str]:
    """What its headings are called in a link, as Python-Markdown and GitHub have it."""
    headings = re.findall(
        r"^#+ +(.*?)\s*$", re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-") for heading in headings}


def broken(document: Path, text: str | None = None) -> list[str]:
    """The links of a document that lead nowhere."""
    found = []
    for link in links(document, text):
        name, _, anchor = link.partition("#")
        place = document.parent / name if name else document
        if not place.exists() or (anchor and anchor not in anchors(place)):
            found.append(link)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken(document) == []


def test_a_link_that_leads_nowhere_is_noticed() -> None:
    text = "[a](blame.md) [b](lost.md) [c](blame.md#who-is-wrong) [d](blame.md#nobody) `[e](lost.md)` [f](https://x.example)"
    assert broken(DOCS / "index.md", text) == ["lost.md", "blame.md#nobody"]


def menu() -> list[str]:
    """The pages that the site's menu leads to."""

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        below = list(entry.values()) if isinstance(entry, dict) else entry
        return [page for one in below for page in pages(one)]

    return pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def test_the_menu_has_every_page_once() -> None:
    assert sorted(menu()) == [page.name for page in PAGES]


def test_from_differing_logits_to_the_command_that_says_why() -> None:
    """The row of the first page names the command, and the page that it leads to shows what that says."""
    row = next(line for line in (DOCS / "index.md").read_text(encoding="utf-8").splitlines() if line.startswith("| My logits differ"))
    assert "`aprgraph diff ours theirs --model model.gguf`" in row
    seen, reached = {"index.md"}, [link.partition("#")[0] for link in links(DOCS / "index.md", row)]
    for _ in range(CLICKS - 1):
        if any("aprgraph diff" in (DOCS / page).read_text(encoding="utf-8") for page in reached):
            break
        seen |= set(reached)
        reached = [link.partition("#")[0] for page in reached for link in links(DOCS / page) if link.endswith(".md") and link not in seen]
    assert any("aprgraph diff" in (DOCS / page).read_text(encoding="utf-8") for page in reached)


def test_every_page_is_reached_from_the_first() -> None:
    """Without the menu, as in a checkout."""
    reached, left = set(), ["index.md"]
    while left:
        page = left.pop()
        reached.add(page)
        near = {link.partition("#")[0] for link in links(DOCS / page)}
        left += [other.name for other in PAGES if other.name in near - reached]
    assert reached == {page.name for page in PAGES}
