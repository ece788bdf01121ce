"""`aprgraph check`: what it prints, its exit codes, and its JSON document."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from aprgraph.runtime.check import RULES
from aprgraph.runtime.check.report import FORMAT, VERSION
from tests.support.cli import fails, run_cli
from tests.support.gguf_bytes import STRING, small_llama
from tests.support.planted import Bytes, planted

Tiny = Callable[..., Path]
DOCS = Path(__file__).parents[2] / "docs"
SCHEMA: dict[str, Any] = json.loads((DOCS / "check.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder of the command."""
    monkeypatch.chdir(tmp_path)


def run(*arguments: object, code: int) -> list[str]:
    result = run_cli("check", *arguments)
    assert (result.code, result.err) == (code, "")
    return result.out.splitlines()


def document(*arguments: object, code: int) -> dict[str, Any]:
    """What --json prints, validated."""
    found: dict[str, Any] = json.loads("\n".join(run(*arguments, "--json", code=code)))
    VALIDATOR.validate(found)
    assert found["exit_code"] == code
    return found


def nan(rows: Bytes) -> None:
    rows.view("<f4")[3, 4] = np.nan


def broken(model: Path, name: str = "broken.gguf") -> Path:
    """A copy with NaN in every matrix of ffn_up, and one with its first row 0."""

    def zero(rows: Bytes) -> None:
        rows[0] = 0

    changes = {f"blk__{layer}__ffn_up__weight": nan for layer in range(5)}
    return planted(model, Path(name), **changes, blk__0__ffn_down__weight=zero)


def test_a_sound_model(tiny_model: Tiny) -> None:
    path = tiny_model()
    lines = run(path, code=0)
    assert lines[0].startswith(f"{path.name}: nothing wrong found: 21 tensors, 0.4 MB read; 1 note.")
    assert lines[1:] == [
        "note: the file has no chat template: the key tokenizer.chat_template is not there",
        "  --chat does not work; is it a base model?",
    ]


def test_findings_of_one_kind_are_one_line_unless_all_are_asked_for(tiny_model: Tiny) -> None:
    path = broken(tiny_model(layers=5))
    lines = run(path, code=1)
    assert lines[0] == (
        "broken.gguf: 1 error and 1 warning: weights hold NaN or Inf (blk.0.ffn_up.weight and 4 more); "
        "parts of weights are 0 where their neighbours are not (blk.0.ffn_down.weight)."
    )
    held = "1 NaN element (row 3, column 4)"
    named = "; ".join(f"blk.{layer}.ffn_up.weight: {held}" for layer in range(3))
    assert lines[1] == f"error: weights hold NaN or Inf: {named}; and 2 more (--all)"
    assert lines[3] == "warning: parts of weights are 0 where their neighbours are not: blk.0.ffn_down.weight: row 0 of 64"
    lines = run(path, "--all", code=1)
    assert lines[1:7] == ["error: weights hold NaN or Inf:", *(f"  blk.{layer}.ffn_up.weight: {held}" for layer in range(5))]


@pytest.mark.contract("CHECK-JSON-1")
def test_the_schema(tiny_model: Tiny) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["format"]["const"] == FORMAT
    assert SCHEMA["properties"]["version"]["const"] == VERSION
    found = document(broken(tiny_model(layers=5)), code=1)
    assert found["counts"] == {"error": 5, "warning": 1, "note": 1}
    assert [one["code"] for one in found["findings"]] == ["weight-nonfinite"] * 5 + ["weight-zero-part", "template-absent"]
    assert found["read"]["tensors"] == found["tensors"]
    assert document(tiny_model(), code=0)["kind"] == "model"
    quick = document(broken(tiny_model(layers=5)), "--quick", code=0)
    assert (quick["read"], quick["not_looked_at"]) == ({"tensors": 0, "bytes": 0}, ["the values of the weights (--quick)"])


@pytest.mark.contract("CHECK-JSON-1")
def test_the_json_of_other_files() -> None:
    Path("m.gguf").write_bytes(b"<!DOCTYPE html><html>")
    assert document("m.gguf", code=1)["kind"] == "web-page"
    Path("m.gguf").write_bytes(small_llama().pack()[:100])
    assert document("m.gguf", code=1)["findings"][0]["code"] == "file-damaged"


@pytest.mark.contract("CHECK-JSON-1")
def test_the_page_names_every_code_with_its_level_and_its_words() -> None:
    page = (DOCS / "check.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([a-z-]+)` \| (\w+) \|", page, re.MULTILINE))
    assert table == {rule.code: rule.level.value for rule in RULES.values()}
    for rule in RULES.values():
        assert f"| `{rule.code}` | {rule.level.value} | {rule.title} |" in page


@pytest.mark.contract("CHECK-KIND-1")
def test_what_is_no_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("m.gguf").write_bytes(b"PK\x03\x04 archive/data.pkl")
    lines = run("m.gguf", code=1)
    assert lines[0] == "m.gguf: 1 error: this is a PyTorch checkpoint."
    assert lines[-1] == "not looked at: what is in it"


def test_text_of_files_does_not_reach_the_terminal_as_it_is() -> None:
    file = small_llama()
    file.set("general.architecture", STRING, "\x1b[2Jgpt9\n\u202e")
    Path("m.gguf").write_bytes(file.pack())
    out = run_cli("check", "m.gguf").out
    assert "\x1b" not in out
    assert "\u202e" not in out
    name = "m\x1b[2J.gguf"
    Path(name).write_bytes(b"")
    result = run_cli("check", name)
    assert "\x1b" not in result.out
    assert "\x1b" not in run_cli("stages", name).err


@pytest.mark.contract("ERR-LINE-1")
def test_what_cannot_be_checked() -> None:
    assert fails("check", "m.gguf").startswith("m.gguf: not there; ")
    Path("m.gguf").write_bytes(b"\1\2\3\4\5")
    assert r"begins with b'\x01\x02\x03\x04'" in fails("check", "m.gguf")
