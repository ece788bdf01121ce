"""`aprgraph weights`: what it prints, its exit codes, its JSON document and its page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from aprgraph.runtime.weights import candidates
from aprgraph.runtime.weights.report import FORMAT, VERSION
from tests.support.changed_model import Tensors, changed_model
from tests.support.cli import fails, run_cli

Tiny = Callable[..., Path]
DOCS = Path(__file__).parents[2] / "docs"
SCHEMA: dict[str, Any] = json.loads((DOCS / "weights.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder of the command."""
    monkeypatch.chdir(tmp_path)


def run(*arguments: object, code: int) -> list[str]:
    result = run_cli("weights", *arguments)
    assert (result.code, result.err) == (code, "")
    return result.out.splitlines()


def scaled(t: Tensors) -> None:
    for layer in range(2):
        t[f"blk.{layer}.attn_v.weight"] *= 2


def renamed(t: Tensors) -> None:
    for name in list(t):
        t[f"x.{name}"] = t.pop(name)


def test_the_same_model(tiny_model: Tiny) -> None:
    model = tiny_model()
    other = changed_model(model, Path("b.gguf"), format="Q8_0")
    assert run(model, other, code=0) == [
        "The same model: 21 tensors: 5 identical, 16 the same up to the rounding of Q8_0.",
        "hyperparameters: the same",
        "tokenizer: the same",
    ]
    lines = run(model, other, "--all", code=0)
    assert len(lines) == 24
    assert lines[1].startswith("rounded: token_embd.weight [F32 and Q8_0] (NMSE 2.")


def test_another_model(tiny_model: Tiny) -> None:
    model = tiny_model()
    other = changed_model(model, Path("b.gguf"), scaled, keys={"llama.rope.freq_base": 500000.0})
    lines = run(model, other, code=1)
    assert lines[0] == (
        "Not the same: attn_v.weight of layers 0..1: A is 0.5 times B; other llama.rope.freq_base (10000 in A, 500000 in B). "
        "The other 19 tensors are identical."
    )
    assert lines[1].startswith("transformed: attn_v.weight of layers 0..1: A is 0.5 times B (NMSE 0 left")
    assert lines[2:] == ["hyperparameters: 1 differ", "  llama.rope.freq_base: 10000 in A, 500000 in B", "tokenizer: the same"]


@pytest.mark.contract("WEIGHTS-JSON-1")
@pytest.mark.parametrize(("change", "code"), [(None, 0), (scaled, 1), (renamed, 3)])
def test_the_document(change: Callable[[Tensors], None] | None, code: int, tiny_model: Tiny) -> None:
    model = tiny_model()
    other = changed_model(model, Path("b.gguf"), change, format="Q4_0")
    found = json.loads("\n".join(run(model, other, "--json", code=code)))
    VALIDATOR.validate(found)
    assert (found["format"], found["version"], found["exit_code"]) == (FORMAT, VERSION, code)
    assert sum(found["counts"].values()) == len(found["tensors"])


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.contract("WEIGHTS-JSON-1")
def test_the_schema_and_the_document_have_every_kind() -> None:
    """Those that the code gives a fit, by its text."""
    folder = Path(candidates.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    given = set(re.findall(r'Fit\(\s*"([a-z-]+)"', code)) | set(re.findall(r'kind="([a-z-]+)"', code)) | {"block-factors", "block-offsets"}
    assert {"misread", "low-rank"} < given
    known = SCHEMA["$defs"]["tensor"]["properties"]["kind"]["enum"]
    documented = (DOCS / "weights.md").read_text(encoding="utf-8")
    for kind in sorted(given - {"same"}):
        assert kind in known, kind
        assert f"`{kind}`" in documented or kind in ("shape", "damaged", "missing"), kind


def test_every_kind_is_in_the_document() -> None:
    kinds = set(SCHEMA["$defs"]["tensor"]["properties"]["kind"]["enum"]) - {"", "damaged", "shape", "missing"}
    text = (DOCS / "weights.md").read_text(encoding="utf-8")
    assert all(f"| `{kind}` |" in text for kind in kinds)


def test_the_page(tiny_model: Tiny) -> None:
    model = tiny_model()
    other = changed_model(model, Path("b<i>.gguf"), scaled)
    run(model, other, "--html", "page.html", code=1)
    page = Path("page.html").read_text(encoding="utf-8")
    assert "A is 0.5 times B" in page
    assert "b&lt;i&gt;.gguf" in page
    assert "<i>" not in page
    run(model, other, "--html", "page.html", code=1)  # its own page is replaced
    Path("mine.html").write_text("mine", encoding="utf-8")
    result = run_cli("weights", model, other, "--html", "mine.html")
    assert (result.code, Path("mine.html").read_text(encoding="utf-8")) == (2, "mine")


@pytest.mark.parametrize("text", ["", "GGUF", "no model"])
def test_what_is_no_model_is_one_clear_error(text: str, tiny_model: Tiny) -> None:
    Path("b.gguf").write_text(text, encoding="utf-8")
    for pair in ((tiny_model(), "b.gguf"), ("b.gguf", tiny_model())):
        error = fails("weights", *pair)
        assert "b.gguf" in error
    assert "no.gguf" in fails("weights", tiny_model(), "no.gguf")
