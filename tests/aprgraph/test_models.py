"""`aprgraph models`, and the page of the documentation that it makes."""

from __future__ import annotations

from pathlib import Path

from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.families import FAMILIES
from tests.support.cli import run_cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_every_family_and_format_is_listed() -> None:
    result = run_cli("models")
    assert (result.code, result.err) == (0, "")
    words = set(result.out.split())
    assert {*FAMILIES, *BLOCK_FORMATS} <= words
    assert "a shared expert" in result.out
    assert "attn_post_norm, ffn_post_norm" in result.out


def test_the_page_is_as_the_declarations_are() -> None:
    assert run_cli("models", "--markdown").out == PAGE.read_text(encoding="utf-8"), (
        "make it again: aprgraph models --markdown > docs/models.md"
    )
