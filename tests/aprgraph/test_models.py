"""`aprgraph models`, and the page of the documentation that it makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.cli import tables
from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.families import FAMILIES
from tests.support.cli import fails, run_cli, run_process

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_every_family_and_format_is_listed() -> None:
    result = run_cli("models")
    assert (result.code, result.err) == (0, "")
    words = set(result.out.split())
    assert {*FAMILIES, *BLOCK_FORMATS} <= words


@pytest.mark.parametrize("command", [["models"], ["models", "llama4"], ["stages"]], ids=" ".join)
def test_the_lists_fit_a_terminal(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is folded there is whole in a pipe."""
    piped = run_cli(*command).out
    monkeypatch.setattr(tables, "columns", lambda: 80)
    shown = run_cli(*command).out
    assert max(map(len, shown.splitlines())) <= (113 if command == ["stages"] else 80)  # of the letters below it
    assert max(map(len, piped.splitlines())) > 80
    assert sorted(re.sub(r"-{2,}", "", shown).split()) == sorted(re.sub(r"-{2,}", "", piped).split())


def test_a_table_spares_its_last_column_where_there_is_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tables.format_table(("stage", "file"), [("attn_out", "layer-0/attn_out.bin")], spare=(1,))
    assert whole.endswith("attn_out  layer-0/attn_out.bin")
    for width, expected in ((30, whole), (29, tables.format_table(("stage",), [("attn_out",)]))):
        monkeypatch.setattr(tables, "columns", lambda width=width: width)
        assert tables.format_table(("stage", "file"), [("attn_out", "layer-0/attn_out.bin")], spare=(1,)) == expected


def test_a_model_file_says_its_own_family(tiny_model: Callable[..., Path]) -> None:
    assert run_cli("models", tiny_model(family="qwen3moe")).out == run_cli("models", "qwen3moe").out
    assert fails("models", "lost.gguf").startswith("no family, and no model of one, is called 'lost.gguf'")


@pytest.mark.parametrize("word", ["gemma3", "Gemma3ForCausalLM", "gemma 3"])
def test_all_of_one_family(word: str) -> None:
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in run_cli("models", word).out.partition("\n\n")[0].splitlines())
    assert (facts["family"], facts["models"], facts["described in"]) == ("gemma3", "Gemma 3", "arXiv:2503.19786")
    assert "attn_post_norm, ffn_post_norm" in facts["stages of its own"]
    assert "Gemma3ForConditionalGeneration" in facts["classes of transformers"]


def test_a_family_that_is_not_there() -> None:
    assert fails("models", "Qwen3ForCasualLM").startswith(
        "no family, and no model of one, is called 'Qwen3ForCasualLM' (did you mean 'Qwen3ForCausalLM'?); `aprgraph models` lists them"
    )


def test_the_page_is_as_the_declarations_are(tmp_path: Path) -> None:
    """In a process that has no family of another test."""
    made = run_process("models", "--markdown", cwd=tmp_path)
    assert (made.code, made.err) == (0, "")
    assert made.out == PAGE.read_text(encoding="utf-8"), "make it again: aprgraph models --markdown > docs/models.md"
