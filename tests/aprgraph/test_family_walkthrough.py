"""The family of docs/families.md, whose file is run as it stands there, against transformers and llama.cpp.

Its model is that of OLMo 1 under another name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.families import FAMILIES, load_family_file, outline, small_outline
from aprgraph.graph.ops import OPS
from aprgraph.graph.outline import SMALL_NUMBERS
from tests.support.cli import run_cli
from tests.support.cuda_emulator import host_compiler
from tests.support.cuda_runs import command, run_emulated
from tests.support.golden import GOLDEN, nmse
from tests.support.own_families import own_families
from tests.support.pico import GOLDEN_NAME, write_pico, write_pico_checkpoint

try:
    import torch
except ModuleNotFoundError:
    torch = None

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
_NUMBERS = GOLDEN / "families" / f"{GOLDEN_NAME}.npz"


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Path]:
    """The page's file."""
    code = re.search(r"^```python\n(.*?)^```$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert code is not None
    path = tmp_path / "pico.py"
    path.write_text(code[1], encoding="utf-8")
    with own_families():
        yield path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Its GGUF file."""
    return write_pico(tmp_path / "pico-f32.gguf")


def _tokens() -> list[int]:
    with np.load(_NUMBERS) as arrays:
        tokens: list[int] = arrays["tokens"].tolist()
    return tokens


def _check(trace: aprgraph.Trace) -> None:
    with np.load(_NUMBERS) as arrays:
        expected = {name: arrays[name] for name in arrays.files if name != "tokens"}
    found = {(entry.stage if entry.layer is None else f"layer-{entry.layer}/{entry.stage}"): trace.load(entry) for entry in trace.entries}
    assert set(found) == set(expected)
    for name, values in expected.items():
        actual = found[name][-1] if name == "lm_head" else found[name]
        assert nmse(actual, values) <= 1e-11, name
    with np.load(GOLDEN / "families" / "llama_cpp_logits.npz") as arrays:
        assert nmse(found["lm_head"], arrays[GOLDEN_NAME]) <= 1e-11


@pytest.mark.contract("FAMILY-WALK-1")
@pytest.mark.parametrize("target", ["reference", "llvm"])
def test_every_stage_is_that_of_transformers(family: Path, model: Path, target: str, tmp_path: Path) -> None:
    load_family_file(family)
    compiled = aprgraph.load(model).compile(target, tmp_path / "a.aprg")
    _check(compiled.run("all", "0..2", tokens=_tokens(), positions="all", directory=tmp_path / "t"))


@pytest.mark.contract("FAMILY-WALK-1")
def test_a_checkpoint_opens_with_it(family: Path, model: Path, tmp_path: Path) -> None:
    load_family_file(family)
    logits = [
        aprgraph.load(path).compile("reference", tmp_path / f"{number}.aprg").logits(_tokens(), positions="all")
        for number, path in enumerate((write_pico_checkpoint(tmp_path), model))
    ]
    assert nmse(*logits) <= 1e-12
    with np.load(_NUMBERS) as arrays:
        assert nmse(logits[0][-1], arrays["lm_head"]) <= 1e-11


@pytest.mark.contract("FAMILY-WALK-1")
@pytest.mark.skipif(host_compiler() is None, reason="no g++ 12 or later, with which kernels are compiled for the CPU")
def test_on_an_emulated_gpu(family: Path, model: Path, tmp_path: Path) -> None:
    ids = ",".join(map(str, _tokens()))
    compile_it = command("compile", model, "--family", family, "--target", "cuda", "--arch", "sm_80", "-o", "a.aprg")
    run_it = command(
        "run", "a.aprg", "--family", family, "--tokens", ids, "--taps", "all", "--layers", "0..2", "--positions", "all", "-o", "t"
    )
    results = run_emulated([compile_it, run_it], tmp_path)
    assert [(result.code, result.err) for result in results] == [(0, "")] * 2
    _check(aprgraph.Trace.open(tmp_path / "t"))


@pytest.mark.contract("FAMILY-WALK-1", "CAPTURE-TRANSFORMERS-1")
@pytest.mark.skipif(torch is None, reason="torch and transformers are not here")
def test_the_original_is_captured_whole_though_its_norms_have_no_weights(family: Path, model: Path, tmp_path: Path) -> None:
    from tests.golden.family_models import make_model

    load_family_file(family)
    ours = aprgraph.load(model)
    ours.compile("reference", tmp_path / "a.aprg").run("all", "0..2", tokens=_tokens(), directory=tmp_path / "ours")
    theirs = make_model(GOLDEN_NAME, tmp_path / "olmo-f32.gguf").model
    # As transformers calls the modules of code that comes with a checkpoint.
    theirs.__class__ = type("PicoForCausalLM", (type(theirs),), {"__module__": "transformers_modules.pico"})
    with torch.no_grad(), aprgraph.capture.transformers(theirs, tmp_path / "theirs") as capture:
        theirs(torch.tensor([_tokens()]))
    staged = {(node.layer, node.stage) for node in ours.graph.staged()}
    assert {(entry.layer, entry.stage) for entry in capture.trace.entries} == staged
    report = aprgraph.diff(tmp_path / "ours", tmp_path / "theirs", profile="same-graph-f32")
    assert (report.exit_code, report.compared) == (0, len(staged)), report.verdict


def test_a_trace_is_audited_and_drawn_with_the_family(family: Path, model: Path, tmp_path: Path) -> None:
    load_family_file(family)
    aprgraph.load(model).compile("reference", tmp_path / "a.aprg").run("all", "0..2", tokens=_tokens(), directory=tmp_path / "t")
    FAMILIES.pop("pico")
    audit = run_cli("audit", tmp_path / "t", "--model", model, "--family", family)
    assert (audit.code, audit.err) == (0, ""), audit
    assert "clip" in run_cli("graph", tmp_path / "t", "--format", "dot").out


def test_what_an_artifact_needs_is_said(family: Path, model: Path, tmp_path: Path) -> None:
    load_family_file(family)
    aprgraph.load(model).compile("reference", tmp_path / "a.aprg")
    FAMILIES.pop("pico")
    assert run_cli("run", tmp_path / "a.aprg", "--tokens", "1").code == 0
    del OPS["clip"]
    run = run_cli("run", tmp_path / "a.aprg", "--tokens", "1")
    assert run.code == 2
    assert "the op 'clip' of its graph is not known; a family's file brought it" in run.err
    run = run_cli("run", model, "--tokens", "1")
    assert run.code == 2
    assert "general.architecture is 'pico'" in run.err
    assert "docs/families.md" in run.err


def test_its_outline_is_printed(family: Path) -> None:
    (pico,) = load_family_file(family)
    assert "%layer1.attn_norm = layer_norm(%layer0.post_ffn_residual) {eps = 1e-05, groups = 1} stage attn_norm" in str(small_outline(pico))
    bounded = outline(pico, {**SMALL_NUMBERS, "attention.clamp_kqv": 0.25}, vocabulary=9)
    assert "%layer1.qkv_clipped = clip(%layer1.qkv_matmul) {bound = 0.25} layer 1" in str(bounded)
    assert "%layer1.v = columns(%layer1.qkv_clipped) {start = 96, stop = 128} layer 1" in str(bounded)
    assert FAMILIES["pico"].about() == (
        "Pico", "our report, 2026", "Llama with LayerNorms that have no weights, and bounds of q, k and v",
    )  # fmt: skip
