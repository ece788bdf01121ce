"""One message, two readers: a Python program is told of arguments, the command line of options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import aprgraph
from aprgraph.graph.arguments import (
    ARCHITECTURES,
    CHECK,
    COMPILE,
    CPU,
    FAMILY,
    INSPECT,
    JSON,
    LAYERS,
    MAX_TOKENS,
    OVERRIDES,
    TAPS,
)
from aprgraph.graph.errors import PlanError
from aprgraph.graph.message import Message
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.option_words import document_in_option_words, in_option_words, option_words
from aprgraph.runtime.diff.sources import open_pair
from aprgraph.runtime.report import render_page
from tests.support.blame import bare, traced
from tests.support.cli import fails, run_cli


def test_arguments_are_named_by_who_reads_them() -> None:
    error = PlanError(LAYERS.given("0..2", "'0..2'"), ": nothing there; add ", TAPS, " or ", OVERRIDES.given("a=int:1", "{'a': 1}"))
    assert str(error) == "layers='0..2': nothing there; add taps= or overrides={'a': 1}"
    assert error.text(option_words) == "--layers 0..2: nothing there; add --taps or --override-kv a=int:1"
    assert [option_words(one) for one in (ARCHITECTURES, MAX_TOKENS.given(3))] == ["--arch", "--max-tokens 3"]


def test_the_same_error_in_both_fronts(tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(PlanError, match=r"^taps=: unknown stage 'x'"):
        parse_plan("x")
    assert fails("run", tiny_model(), "--taps", "x").startswith("--taps: unknown stage 'x'")


def test_options_and_commands_that_python_has_otherwise() -> None:
    check, compile_it = CHECK.given("m.gguf", "aprgraph.check('m.gguf')"), COMPILE.with_options(CPU, in_python="LoadedModel.compile(cpu=…)")
    message = Message("see ", JSON, ", ", FAMILY, ", ", check, ", ", compile_it, ", ", INSPECT)
    assert (
        message
        == "see to_json(), aprgraph.families.load_family_file('FILE.py'), aprgraph.check('m.gguf'), LoadedModel.compile(cpu=…), aprgraph inspect"
    )
    said = "see --json, --family FILE.py, aprgraph check m.gguf, aprgraph compile --cpu, aprgraph inspect"
    assert in_option_words(message) == said
    document = {"notes": [message, "plain"], "rows": ({"reason": message},), "count": 3, "none": None}
    assert document_in_option_words(document) == {"notes": [said, "plain"], "rows": [{"reason": said}], "count": 3, "none": None}


@pytest.fixture
def bare_pair(tiny_model: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """A model, and two traces of it without manifests, whose tokens nobody knows."""
    model = tiny_model()
    sides = [bare(traced(tmp_path / name, model, taps="ffn_gate,ffn_up")) for name in ("a", "b")]
    return model, sides[0], sides[1]


@pytest.mark.contract("ERR-WORDS-1")
def test_notes_and_reasons_in_both_fronts(bare_pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, a, b = bare_pair
    given = "the tokens are not known; give them with "
    found = aprgraph.diff(a, b, model=model)
    assert f"{given}tokens=" in found.headline
    assert "--tokens" not in found.headline
    assert f"{given}tokens=" in render_page(found, *open_pair(a, b))
    page = tmp_path / "page.html"
    for command in (("audit", a), ("audit", a, "--all"), ("audit", a, "--json"), ("diff", a, b), ("diff", a, b, "--json")):
        result = run_cli(*command, "--model", model, *(("--html", page) if command == ("diff", a, b) else ()))
        assert f"{given}--tokens" in result.out, command
        assert "tokens=" not in result.out, command
    text = page.read_text(encoding="utf-8")
    assert f"{given}--tokens" in text
    assert "tokens=" not in text


@pytest.mark.contract("ERR-WORDS-1")
def test_findings_in_both_fronts(tiny_model: Callable[..., Path]) -> None:
    model = tiny_model(rope_base=None, tokenizer=False)
    found = {finding.rule.code: finding for finding in aprgraph.check(model).findings}
    assert found["key-absent"].text.endswith("give it with overrides={'llama.rope.freq_base': VALUE}")
    assert found["tokenizer-absent"].advice == "give prompts as token ids, with tokens="
    for command in (("check", model), ("check", model, "--json"), ("inspect", model)):
        result = run_cli(*command)
        assert "give it with --override-kv llama.rope.freq_base=float:VALUE" in result.out, command
        assert "with tokens=" not in result.out
    assert "give prompts as token ids, with --tokens" in run_cli("check", model).out


def test_a_manifest_has_the_same_bytes_whoever_ran(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = tiny_model(rope_base=None)
    compiled = aprgraph.load(model).compile("reference", tmp_path / "m.aprg")
    compiled.run("lm_head", tokens=[1, 2], directory=tmp_path / "a")
    run_cli("run", tmp_path / "m.aprg", "--tokens", "1,2", "--taps", "lm_head", "-o", tmp_path / "b")
    written = [(tmp_path / name / "trace.json").read_bytes() for name in "ab"]
    assert written[0] == written[1]
    assert b"--override-kv" in written[0]
