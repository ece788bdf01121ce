"""`aprgraph audit` at the command line and from Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from tests.support.blame import TOKENS, bare, spoil, traced
from tests.support.cli import fails, run_cli
from tests.support.traces import noisy

Tiny = Callable[..., Path]


@pytest.fixture
def spoilt(tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model, and a trace of it in which layer 1 ffn_gate is off."""
    monkeypatch.chdir(tmp_path)
    model = tiny_model()
    trace = traced(tmp_path / "theirs", model)
    spoil(trace, "ffn_gate", 1, lambda values: noisy(values, 1e-2))
    return model, trace.directory


def test_the_sentence_comes_first_and_then_what_is_wrong(spoilt: tuple[Path, Path]) -> None:
    result = run_cli("audit", "theirs", "--model", spoilt[0])
    assert (result.code, result.err) == (1, "")
    lines = result.out.splitlines()
    assert lines[0] == "theirs: wrong at 2 of 35 tensors."
    assert lines[1] == "WHERE  layer 1 ffn_gate: local error 1.0e-04 (limit 1e-11)"
    assert lines[2].startswith("       layer 1 ffn_silu: local error ")
    parts = {line[:7].strip(): line[7:] for line in lines[3 : lines.index("")] if line[:7].strip()}
    assert parts["WHOSE"] == "theirs, and not the model file"
    assert parts["WHY"].startswith("no explanation fits layer 1 ffn_gate and ffn_silu: none of the ")
    assert parts["NEXT"] == "layer 1 ffn_gate alone, with its inputs and weights, as a script:"
    facts = lines[lines.index("") + 1 :]
    assert facts[0].endswith(", reference, 35 tensors")
    assert facts[1].startswith("prompt: 7 tokens: 3, 1, 4, 1, 5, 9, 2 (")
    assert facts[2] == "tensors: 33 RIGHT, 2 WRONG"
    assert facts[4].split() == ["tensor", "local", "error", "limit", "replayed", "from"]
    assert facts[6].split() == ["WRONG", "layer", "1", "ffn_gate", facts[6].split()[4], "1e-11", "layer", "1", "ffn_norm"]
    assert facts[8].startswith("layer 1 ffn_gate, by position: ")
    assert facts[-1] == "2 of 35 tensors shown; --all prints every one"
    everything = run_cli("audit", "theirs", "--model", spoilt[0], "--all").out.splitlines()
    assert len(everything) == lines.index("") + 1 + 6 + 35 + 2


def test_json(spoilt: tuple[Path, Path]) -> None:
    result = run_cli("audit", "theirs", "--model", spoilt[0], "--json")
    document = json.loads(result.out)
    assert (document["format"], document["version"], document["exit_code"], result.code) == ("aprgraph-audit", 2, 1, 1)
    assert [one["label"] for one in document["tensors"] if one["state"] == "WRONG"] == ["layer 1 ffn_gate", "layer 1 ffn_silu"]
    gate = next(one for one in document["tensors"] if one["label"] == "layer 1 ffn_gate")
    assert (gate["region"], gate["weights"], gate["sources"]) == (["layer1.ffn_gate"], ["blk.1.ffn_gate.weight"], [[0, 1, "ffn_norm"]])


def test_suggest_and_repro(spoilt: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = spoilt
    result = run_cli("audit", "theirs", "--model", model, "--suggest")
    assert (result.code, result.out, result.err) == (1, "", "nothing to tap: what is wrong is one stage\n")
    result = run_cli("audit", "theirs", "--model", model, "--repro", "guilty")
    assert (result.code, result.err) == (1, "layer 1 ffn_gate alone: python guilty/repro.py\n")
    assert (tmp_path / "guilty/repro.py").is_file()
    assert run_cli("audit", "theirs", "--model", model, "--repro", "guilty").code == 1  # what it wrote, it replaces
    np.save(tmp_path / "guilty/actual.npy", np.zeros(3))
    message = fails("audit", "theirs", "--model", model, "--repro", "guilty")
    assert message == "guilty: actual.npy is not as aprgraph wrote it; give another place with --repro"
    suggested = run_cli("audit", "theirs", "--model", model, "--suggest", "--repro", "deep/er")
    assert (suggested.code, (tmp_path / "deep/er/repro.py").is_file()) == (1, True)
    few = traced(tmp_path / "few", model, taps="ffn_norm,ffn_out")
    spoil(few, "ffn_out", 1, lambda values: noisy(values, 1e-2))
    result = run_cli("audit", "few", "--model", model, "--suggest")
    assert (result.code, result.out) == (1, "--taps ffn_norm,ffn_gate,ffn_up,ffn_silu,ffn_swigl,ffn_out --layers 1..2\n")


def test_the_page(spoilt: tuple[Path, Path], tmp_path: Path) -> None:
    result = run_cli("audit", "theirs", "--model", spoilt[0], "--html", "where.html", "--quiet")
    assert (result.code, result.err, len(result.out.splitlines())) == (1, "", 1)
    page = (tmp_path / "where.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert '<h1 class="exit-1">theirs: wrong at 2 of 35 tensors.</h1>' in page
    assert "<dt>WHY</dt><dd><p>no explanation fits layer 1 ffn_gate and ffn_silu: " in page
    assert "script-src &#39;none&#39;" in page
    assert page.count('<th scope="row">layer 1 ffn_gate</th>') == 2  # what is wrong, and all tensors
    assert page.count('<td class="class off">WRONG</td>') == 2 + 2
    assert page.count('<td class="class">RIGHT</td>') == 33  # what is right stands out nowhere
    assert page.count('class="class') == 2 + 35
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    (tmp_path / "mine.html").write_text("mine")
    assert "give another place with --html" in fails("audit", "theirs", "--model", spoilt[0], "--html", "mine.html")


def test_a_trace_without_a_manifest(spoilt: tuple[Path, Path]) -> None:
    model, directory = spoilt
    bare(aprgraph.Trace.open(directory))
    assert "the tokens of theirs are not known" in run_cli("audit", "theirs", "--model", model).out
    result = run_cli("audit", "theirs", "--model", model, "--tokens", ",".join(map(str, TOKENS)))
    assert "not known, so its embedding" not in result.out
    assert result.code == 1


def test_hyperparameters_can_be_put_right(tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose metadata are wrong: with the key replaced, the trace is right."""
    monkeypatch.chdir(tmp_path)
    model = tiny_model()
    override = ["--override-kv", "llama.rope.freq_base=float:500000"]
    assert run_cli("run", model, "--target", "reference", "--taps", "all", "--tokens", "1,2,3", "-o", "theirs", *override).code == 0
    assert run_cli("audit", "theirs", "--model", model).code == 1
    assert run_cli("audit", "theirs", "--model", model, *override).code == 0


def test_a_limit_that_is_set(spoilt: tuple[Path, Path]) -> None:
    result = run_cli("audit", "theirs", "--model", spoilt[0], "--tol", "ffn_gate=nmse:1e-3")
    assert result.out.startswith("theirs: wrong at 1 of 35 tensors.\nWHERE  layer 1 ffn_silu: local error ")
    assert run_cli("audit", "theirs", "--model", spoilt[0], "--tol", "ffn_.*=nmse:1e-3").code == 0
    assert "applies to no stage" in fails("audit", "theirs", "--model", spoilt[0], "--tol", "q_norm=nmse:1e-3")


def test_from_python(spoilt: tuple[Path, Path]) -> None:
    found = aprgraph.audit("theirs", spoilt[0])
    assert [local.label for local in found.wrong] == ["layer 1 ffn_gate", "layer 1 ffn_silu"]
    report = aprgraph.diff("theirs", traced(spoilt[1].parent / "ours", spoilt[0]), model=spoilt[0])
    assert report.headline.startswith("theirs (A) is wrong at layer 1 ffn_gate")


def test_errors(spoilt: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = spoilt
    assert "no such file or directory" in fails("audit", "nowhere", "--model", model)
    assert "nowhere.gguf" in fails("audit", "theirs", "--model", "nowhere.gguf")
    assert "names other tokens" in fails("audit", "theirs", "--model", model, "--tokens", "1,2")
    assert "unknown tolerance profile 'loose'" in fails("audit", "theirs", "--model", model, "--profile", "loose")
    assert "nothing reads this key" in fails("audit", "theirs", "--model", model, "--override-kv", "llama.nonsense=int:1")
    result = run_cli("audit", "theirs")
    assert (result.code, "--model" in result.err) == (2, True)
    (tmp_path / "empty").mkdir()
    assert "holds neither a manifest" in fails("audit", "empty", "--model", model)
