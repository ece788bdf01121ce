"""`aprgraph run --arithmetic`: a model computed as an engine rounds it, and what its manifest says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import aprgraph
from aprgraph.api import CompiledModel
from aprgraph.codegen.kernels.base import requests_of
from aprgraph.graph.passes.apply_arithmetic import ApplyArithmetic
from aprgraph.graph.passes.pipeline import compiled_graphs
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import fails, files_under, run_cli
from tests.support.replayed import replayed_errors
from tests.support.rpc_server import rpc_server

#: Rows of both: each kind of block, and what is not rounded.
FORMATS = {"ffn_down": "Q8_0", "attn_v": "Q4_K", "attn_output": "F16", "output": "BF16", "ffn_up": "Q5_1", "attn_q": "F32"}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    formats = {f"blk.{layer}.{name}.weight": fmt for name, fmt in FORMATS.items() for layer in (0, 1)}
    return tiny_model(format="Q4_1", formats={**formats, "output.weight": "BF16"}, hidden=256, ffn=64, vocabulary=288)


#: The largest NMSE that a stage may be off what the arithmetic makes of its recorded inputs, by target.
LIMITS = {"reference": 1e-12, "llvm": 3e-12}


@pytest.mark.contract("ARITHMETIC-COMPILED-1")
@pytest.mark.parametrize("target", LIMITS)
@pytest.mark.parametrize("flash", ["on", "off"])
def test_a_run_is_what_its_arithmetic_makes_of_it(model: Path, tmp_path: Path, flash: str, target: str) -> None:
    """Each stage, of the prompt and of decoded tokens; and another arithmetic explains no product of quantised weights."""
    arithmetic = f"ggml-avx2,cache=f16,flash={flash}"
    run_cli(
        "run", model, "--target", target, "--arithmetic", arithmetic, "--tokens", "5,9,17,2,5", "--taps", "all",
        "--layers", "0..2", "-n", 3, "--steps", "0..3", "-o", tmp_path / "trace",
    )  # fmt: skip
    trace = Trace.open(tmp_path / "trace")
    assert trace.info is not None
    assert trace.info.extra["engine_arithmetic"] == arithmetic
    assert trace.info.extra["arithmetic"] == "q8-activations"
    assert ("attn_scores" in {entry.stage for entry in trace.entries}) == (flash == "off")
    loaded = aprgraph.load(model).model
    assert max(replayed_errors(trace, loaded, arithmetic).values()) <= LIMITS[target]
    exact = replayed_errors(trace, loaded, "plain")
    assert {step for step, _, _ in exact} == {0, 1, 2}
    for stage, least in (("qkv_matmul", 1e-6), ("attn_out", 1e-9), ("ffn_up", 1e-6), ("ffn_out", 1e-6), ("lm_head", 1e-7)):
        assert min(error for (_, _, name), error in exact.items() if name == stage) >= least, stage


def test_python_has_it_too(model: Path, tmp_path: Path) -> None:
    compiled = aprgraph.load(model).compile("reference", tmp_path / "tiny.aprg")
    plain, rounded = (
        compiled.run("lm_head", tokens=[5, 9], directory=tmp_path / name, arithmetic=name) for name in ("plain", "ggml-scalar")
    )
    assert plain.info is not None
    assert not {"arithmetic", "engine_arithmetic"} & set(plain.info.extra)
    assert rounded.info is not None
    assert rounded.info.extra["engine_arithmetic"] == "ggml-scalar,cache=f16,flash=on"
    report = aprgraph.diff(plain, rounded)
    assert report.profile == "cross-engine-q8k"


@pytest.fixture(scope="module")
def rounding(model: Path, tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    """Compiled kernels in an arithmetic."""
    return aprgraph.load(model).compile("llvm", tmp_path_factory.mktemp("rounding") / "m.aprg", arithmetic="ggml-avx2")


@pytest.mark.contract("ARITHMETIC-COMPILED-1")
def test_what_is_tapped_and_threads_and_parts_of_a_prompt_change_no_bit(rounding: CompiledModel, tmp_path: Path) -> None:
    tokens = [5, 9, 17, 2, 5, 11, 3]
    logits = rounding.logits(tokens, positions="all")
    assert rounding.logits(tokens, positions="all", threads=3).tobytes() == logits.tobytes()
    assert rounding.logits(tokens[:4]).tobytes() == logits[3].tobytes()
    whole = rounding.run("all", "0..2", tokens=tokens, directory=tmp_path / "whole", positions="all")
    parts = rounding.run("all", "0..2", tokens=tokens, directory=tmp_path / "parts", prefill_chunk=3, threads=1)
    assert whole.load(whole.entries[-1]).tobytes() == logits.tobytes()
    for entry, other in zip(whole.entries, parts.entries, strict=True):
        last = entry.stage == "lm_head"
        assert parts.load(other).tobytes() == (logits[-1] if last else whole.load(entry)).tobytes(), entry.stage


@pytest.mark.contract("ARITHMETIC-COMPILED-1")
def test_a_trace_of_kernels_is_right_by_what_its_manifest_names(rounding: CompiledModel, model: Path, tmp_path: Path) -> None:
    arithmetic = "ggml-avx2,cache=f16,flash=on"
    ours = rounding.run("all", "0..2", tokens=[5, 9, 17, 2, 5], directory=tmp_path / "ours", max_tokens=3, steps="0..3")
    assert ours.info is not None
    assert ours.info.extra["engine_arithmetic"] == arithmetic
    found = aprgraph.audit(ours, model)
    assert (found.exit_code, found.profile, found.replayed) == (0, "same-graph-f32", len(ours.entries)), found.sentence
    assert any(f"held to the arithmetic {arithmetic}" in note and "as its manifest says" in note for note in found.notes)
    reference = aprgraph.load(model).compile("reference", tmp_path / "r.aprg", arithmetic=arithmetic)
    theirs = reference.run("all", "0..2", tokens=[5, 9, 17, 2, 5], directory=tmp_path / "theirs", max_tokens=3, steps="0..3")
    assert theirs.info is not None
    assert theirs.info.extra["engine_arithmetic"] == arithmetic
    report = aprgraph.diff(ours, theirs, model=model)
    assert report.blame is not None
    assert not report.blame.wrong, report.headline
    assert report.exit_code == 0, report.headline


def test_an_artifact_names_its_arithmetic_and_runs_in_it(rounding: CompiledModel, model: Path, tiny: CompiledModel, tmp_path: Path) -> None:
    where = rounding.artifact.directory
    assert json.loads((where / "artifact.json").read_text())["arithmetic"] == "ggml-avx2,cache=f16,flash=on"
    ran = run_cli("run", where, "--tokens", "1,2", "--taps", "lm_head", "-o", tmp_path / "t")
    assert ran.err == "note: computed in the arithmetic ggml-avx2,cache=f16,flash=on (llama.cpp on x86-64 with AVX2 and FMA)\n"
    message = fails("run", where, "--arithmetic", "plain", "--tokens", "1,2", "--taps", "lm_head", "-o", tmp_path / "u")
    assert message == (
        f"--arithmetic plain: {where} was compiled for the arithmetic ggml-avx2,cache=f16,flash=on, and its kernels round as that does; "
        "leave it out, or compile the model with --arithmetic plain"
    )
    message = fails("run", tiny.artifact.directory, "--arithmetic", "ggml-avx2,flash=off", "--tokens", "1,2")
    assert message.endswith("compile the model with --arithmetic ggml-avx2,cache=f16,flash=off")
    message = fails("run", model, "--tokens", "1,2", "--arithmetic", "ggml")
    assert message.startswith("arithmetic 'ggml': there is no 'ggml'; expected one of plain, ggml-avx2, ")
    assert not (tmp_path / "u").exists()


def test_artifacts_of_other_arithmetics_have_other_places(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = aprgraph.load(model)
    places = [
        loaded.compile("reference", arithmetic=name).artifact.directory.name for name in ("plain", "ggml-avx2", "ggml-avx2,flash=off")
    ]
    stem = model.stem
    assert places == [
        f"{stem}.reference.aprg", f"{stem}.reference.ggml-avx2.aprg", f"{stem}.reference.ggml-avx2-cache-f16-flash-off.aprg",
    ]  # fmt: skip
    monkeypatch.setenv("APRGRAPH_CACHE", str(tmp_path / "cache"))
    kept = {loaded.compile_cached("reference", arithmetic=name).artifact.directory for name in ("plain", "ggml-avx2", "ggml-scalar")}
    assert len(kept) == 3
    found = loaded.find_cached("reference", arithmetic="ggml-avx2,cache=f16,flash=on")
    assert found is not None
    assert found.artifact.arithmetic == "ggml-avx2,cache=f16,flash=on"


def test_overrides_have_the_same_kernels_in_an_arithmetic(model: Path) -> None:
    of = [
        set(requests_of(compiled_graphs(ApplyArithmetic("ggml-avx2")(aprgraph.load(model, changes).graph))))
        for changes in ({}, {"llama.rope.freq_base": 5e5, "llama.attention.layer_norm_rms_epsilon": 1e-3})
    ]
    assert of[0] == of[1]


def test_bisect_in_an_arithmetic(model: Path, tmp_path: Path) -> None:
    ran = run_cli(
        "bisect", model, "--a", "llvm", "--b", "reference", "--arithmetic", "ggml-avx2", "--tokens", "5,9,17", "-o", tmp_path / "b"
    )
    assert Trace.open(tmp_path / "b" / "a").info.extra["engine_arithmetic"] == "ggml-avx2,cache=f16,flash=on"
    assert ran.code == 0, ran.out


def test_an_arithmetic_that_was_only_read_says_so(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_model(format="Q8_0", hidden=64, ffn=64, head_size=32, heads=2, kv_heads=1)
    compiled = aprgraph.load(path).compile("reference", tmp_path / "tiny.aprg")
    trace = compiled.run("lm_head", tokens=[5, 9], directory=tmp_path / "t", arithmetic="ggml-cuda")
    assert trace.info is not None
    assert trace.info.extra["notes"] == ["the arithmetic ggml-cuda was read in the engine's source, and not tried against it"]


@pytest.mark.contract("ARITHMETIC-COMPILED-1")
def test_passes_of_which_an_arithmetic_knows_nothing_are_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """Before anything runs, for kernels do not ask."""
    path = tiny_model(format="Q8_0", hidden=64, ffn=64, head_size=32, heads=2, kv_heads=1)
    run = ("run", path, "--target", "reference", "--arithmetic", "ggml-cuda", "--tokens", "1,2,3,4,5,6,7,8,9", "--taps", "all")
    assert fails(*run, "-o", tmp_path / "t") == (
        "arithmetic ggml-cuda,cache=f16,flash=off: known of passes of up to 8 positions, and this run has one of 9; give --prefill-chunk 8"
    )
    assert not (tmp_path / "t").exists()
    assert run_cli(*run, "--prefill-chunk", "8", "-o", tmp_path / "t").code == 0


@pytest.mark.contract("REMOTE-BITS-1")
def test_a_run_on_another_machine_has_the_same_bits(rounding: CompiledModel, tmp_path: Path) -> None:
    run = ("run", rounding.artifact.directory, "--tokens", "5,9,17,2,5", "--taps", "all", "-n", 3, "--steps", "0..3", "-o", tmp_path / "t")
    here = run_cli(*run)
    expected = files_under(tmp_path / "t")
    (tmp_path / "t").rename(tmp_path / "here")
    with rpc_server(tmp_path / "log", runtime_alone=True) as server:
        there = run_cli(*run, "--rpc", server.address)
    assert there == here
    assert files_under(tmp_path / "t") == expected
