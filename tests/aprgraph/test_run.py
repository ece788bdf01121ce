"""`aprgraph run`: what it prints and writes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.api import CompiledModel
from aprgraph.graph.stages import execution_key
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import fails, files_under, run_cli, run_process
from tests.support.traces import values, write_bare

TOKENS = "5,200,17"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the command."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> str:
    """What a run that must succeed prints; that layers nobody asked about are left out, or a trace is replaced, is no news here."""
    result = run_cli("run", *arguments)
    assert (result.code, re.sub(r"note: (layer 0 is recorded, and|.* holds an earlier trace) .*\n", "", result.err)) == (0, ""), result.err
    return result.out


def run_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json"))


# -- without taps -------------------------------------------------------------------------------------------------------


def test_without_taps_the_next_token_is_printed(tiny: CompiledModel, here: Path) -> None:
    logits = tiny.logits([5, 200, 17])
    token = int(logits.argmax())
    out = run(tiny.artifact.directory, "--tokens", TOKENS)
    assert re.fullmatch(rf"next token {token} '.+', logit {logits[token]:.6g}\n", out)
    assert files_under(here) == {}


def test_next_tokens_of_all_positions(tiny: CompiledModel, here: Path) -> None:
    best = tiny.logits([5, 200, 17], positions="all").argmax(axis=1)
    lines = run(tiny.artifact.directory, "--tokens", TOKENS, "--positions", "all").splitlines()
    assert [line.split(" '")[0] for line in lines] == [f"position {i}: next token {token}" for i, token in enumerate(best)]


def test_next_token_as_json(tiny: CompiledModel, here: Path) -> None:
    document = run_json(tiny.artifact.directory, "--tokens", TOKENS)
    logits = tiny.logits([5, 200, 17])
    (found,) = document["next"]
    assert document["tokens"] == [5, 200, 17]
    assert (found["position"], found["token"], found["logit"]) == (2, int(logits.argmax()), float(logits.max()))
    assert isinstance(found["text"], str)


def test_the_default_prompt(tiny: CompiledModel, here: Path) -> None:
    assert run_json(tiny.artifact.directory)["tokens"] == tiny.encode("What is 2+2?")
    assert run_json(tiny.artifact.directory, "--prompt", "hello world")["tokens"] == tiny.encode("hello world")
    assert run_json(tiny.artifact.directory, "-p", "hello world") == run_json(tiny.artifact.directory, "--prompt", "hello world")


def test_a_model_without_a_tokenizer_runs_token_ids(tiny_model: Callable[..., Path], here: Path) -> None:
    model = tiny_model(vocabulary=40, tokenizer=False)
    assert re.fullmatch(r"next token \d+, logit [-.\d]+\n", run(model, "--tokens", "1,2", "--target", "reference"))


# -- with taps ----------------------------------------------------------------------------------------------------------


def test_the_table(tiny: CompiledModel, here: Path) -> None:
    out = run(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "all", "--layers", "0..3", "-o", "t")
    announcement, header, _, *rows = out.splitlines()
    trace = Trace.open(here / "t")
    size = sum(len(data) for name, data in files_under(here / "t").items() if name.endswith(".bin"))
    assert announcement == f"{len(trace)} tensors, {size / 1000:.1f} KB, will be written to t/"
    assert header.split() == ["stage", "layer", "shape", "min", "max", "mean", "rms", "NaN/Inf", "file"]
    cells = [row.split() for row in rows]
    assert [(row[0], row[1]) for row in cells] == [(entry.stage, "-" if entry.layer is None else str(entry.layer)) for entry in trace]
    order = [execution_key(None if row[1] == "-" else int(row[1]), row[0]) for row in cells]
    assert order == sorted(order)
    for row, entry in zip(cells, trace.entries, strict=True):
        values = trace.load(entry).astype(np.float64)
        assert row[2] == "x".join(map(str, values.shape))
        assert [float(cell) for cell in row[3:7]] == pytest.approx(
            [values.min(), values.max(), values.mean(), np.sqrt((values**2).mean())], rel=1e-3, abs=1e-9
        )
        assert row[7:] == ["0/0", entry.file]


def test_all_layers_of_one_stage_and_the_whole_model_stages(tiny: CompiledModel, here: Path) -> None:
    run(tiny.artifact.directory, "--tokens", TOKENS, "--taps", " FFN_UP , lm_head,Final_Norm,layer_output", "--layers", "1..3", "-o", "t")
    assert sorted(files_under(here / "t")) == [
        "final_norm.bin", "layer-1/ffn_up.bin", "layer-1/post_ffn_residual.bin", "layer-2/ffn_up.bin", "layer-2/post_ffn_residual.bin",
        "lm_head.bin", "trace.json",
    ]  # fmt: skip


def test_json_is_all_that_is_on_stdout(tiny: CompiledModel, here: Path) -> None:
    document = run_json(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "attn_scores,ffn_up", "--layers", "1..2", "-o", "t")
    trace = Trace.open(here / "t")
    assert (document["trace"], document["tokens"], document["first_nonfinite"]) == ("t", [5, 200, 17], None)
    assert [(item["stage"], item["layer"], item["shape"], item["file"]) for item in document["tensors"]] == [
        ("attn_scores", 1, [4, 3, 3], "layer-1/attn_scores.bin"), ("ffn_up", 1, [3, 96], "layer-1/ffn_up.bin"),
    ]  # fmt: skip
    statistics = trace.get("ffn_up", 1).statistics
    assert statistics is not None
    assert document["tensors"][1]["statistics"] == statistics.to_json()


def test_statistics_only(tiny: CompiledModel, here: Path) -> None:
    whole = run_json(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "all", "-o", "whole")
    out = run(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "all", "-o", "t", "--stats-only")
    assert out.startswith("20 tensors, statistics only, in t/\n")
    assert sorted(files_under(here / "t")) == ["trace.json"]
    again = run_json(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "all", "-o", "t", "--stats-only")
    assert [item["statistics"] for item in again["tensors"]] == [item["statistics"] for item in whole["tensors"]]
    assert {item["file"] for item in again["tensors"]} == {None}


def test_logits_of_all_positions(tiny: CompiledModel, here: Path) -> None:
    run(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "lm_head", "--positions", "all", "-o", "all")
    run(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "lm_head", "-o", "last")
    every, last = Trace.open(here / "all").tensor("lm_head"), Trace.open(here / "last").tensor("lm_head")
    assert (every.shape, last.shape) == ((3, 291), (291,))
    assert every[-1].tobytes() == last.tobytes()


def test_the_default_place_is_beside_the_model(tiny_model: Callable[..., Path], here: Path) -> None:
    shutil.copyfile(tiny_model(), here / "my.model.gguf")
    out = run(here / "my.model.gguf", "--tokens", "1", "--taps", "embedding", "--target", "reference")
    assert f"will be written to {here}/my.model-trace/" in out
    assert sorted(files_under(here / "my.model-trace")) == ["layer-0/embedding.bin", "trace.json"]


@pytest.mark.contract("PLAN-PLACE-1")
@pytest.mark.parametrize(("folder", "what"), [("lib/site-packages/models", "an installed package"), (".cache/hub", "a cache")])
def test_no_trace_goes_into_a_package_or_a_cache(folder: str, what: str, tiny_model: Callable[..., Path], here: Path) -> None:
    (here / folder).mkdir(parents=True)
    shutil.copyfile(tiny_model(), here / folder / "my.gguf")
    done = run_cli("run", here / folder / "my.gguf", "--tokens", "1", "--taps", "embedding", "--target", "reference")
    assert f"the model lies in {what}, so the trace goes into this folder; -o gives another place" in done.err
    assert "will be written to my-trace/" in done.out
    assert sorted(files_under(here / "my-trace")) == ["layer-0/embedding.bin", "trace.json"]
    assert sorted(files_under(here / folder)) == ["my.gguf"]


@pytest.mark.contract("PLAN-LAYERS-5")
def test_layers_that_nobody_asked_about_are_counted(tiny: CompiledModel, here: Path) -> None:
    for options, said in (
        (["--taps", "ffn_up"], True), (["--taps", "ffn_up", "--layers", "0..1"], False), (["--taps", "lm_head"], False),
        (["--taps", "ffn_up", "--layers", "all"], False), ([], False),
    ):  # fmt: skip
        done = run_cli("run", tiny.artifact.directory, "--tokens", TOKENS, *options, *(["-o", "t"] if options else []))
        assert done.code == 0, done.err
        assert ("note: layer 0 is recorded, and 2 layers left out; --layers all records every one" in done.err) == said


def test_layers_where_nothing_is_recorded_are_said(tiny: CompiledModel, here: Path) -> None:
    """Those of a settings file are for other runs."""
    run = ("run", tiny.artifact.directory, "--tokens", TOKENS)
    note = "note: nothing is recorded without --taps, so --layers changes nothing; --taps all records every stage\n"
    assert run_cli(*run, "--layers", "all").err == note
    assert run_cli(*run, "--layers", "all", "--taps", "ffn_up", "-o", "t").err == run_cli(*run).err == ""
    (here / "pyproject.toml").write_text("[tool.aprgraph.run]\nlayers = 'all'\n", encoding="utf-8")
    said = run_cli(*run).err
    assert "[tool.aprgraph]" in said
    assert "nothing is recorded" not in said


def test_patterns_and_open_ends(tiny: CompiledModel, here: Path) -> None:
    run(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "ffn_*,lm_head", "--layers", "1..", "-o", "t")
    trace = Trace.open(here / "t")
    assert trace.info is not None
    assert trace.info.plan == "ffn_norm,ffn_gate,ffn_up,ffn_silu,ffn_swigl,ffn_out,lm_head 1..3"
    assert {entry.layer for entry in trace.entries} == {1, 2, None}
    run(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "ffn_up", "--layers", "1", "-n", "3", "--steps", "1..", "-o", "t")
    assert {entry.step for entry in Trace.open(here / "t").entries} == {1, 2}


def test_the_last_of_several_artifacts_is_run_and_said(tiny: CompiledModel, here: Path) -> None:
    for name in ("old.aprg", "new.aprg", "damaged.aprg"):
        shutil.copytree(tiny.artifact.directory, here / name)
    for name, time in (("new.aprg", 2_000_000_000), ("old.aprg", 1_000_000_000)):
        os.utime(here / name / "artifact.json", (time, time))
    (here / "damaged.aprg" / "artifact.json").write_text("{")
    done = run_cli("run", "--tokens", TOKENS)
    assert done.code == 0, done.err
    assert (
        f"note: of the artifacts in this folder new.aprg is run, the last compiled for {tiny.artifact.target}; "
        "the others are damaged.aprg, old.aprg"
    ) in done.err


def test_another_run_into_the_same_place_replaces_the_trace_alone(tiny: CompiledModel, here: Path) -> None:
    run(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "ffn_up,ffn_out", "-o", "t")
    (here / "t" / "notes.txt").write_text("mine")
    again = run_cli("run", tiny.artifact.directory, "--tokens", "9,9", "--taps", "ffn_up", "--layers", "0", "-o", "t")
    assert (again.code, again.err.splitlines()) == (0, [
        "note: t also holds what is not of this trace, and stays: notes.txt",
        "note: t holds an earlier trace (2 tensors, 3 tokens), which this run replaces",
    ])  # fmt: skip
    assert sorted(files_under(here / "t")) == ["layer-0/ffn_up.bin", "notes.txt", "trace.json"]
    trace = Trace.open(here / "t")
    assert [entry.stage for entry in trace.entries] == ["ffn_up"]
    assert trace.tensor("ffn_up", 0).shape == (2, 96)


@pytest.mark.contract("CAPTURE-PLACE-2")
def test_a_trace_of_somebody_else_is_written_over_only_by_force(tiny: CompiledModel, here: Path) -> None:
    """Refused before anything is compiled or computed, also in the default place."""
    write_bare(here / "t", {(0, "ffn_out"): values(3, 4)})
    before = files_under(here / "t")
    common = ("run", tiny.artifact.directory, "--tokens", TOKENS, "--taps", "ffn_up", "--layers", "0", "-o", "t")
    assert fails(*common) == (
        "t: holds tensors without a trace.json, as another program leaves them (layer-0/ffn_out.bin); add --force to write there all the same, "
        "or give another place with -o"
    )
    assert files_under(here / "t") == before
    result = run_cli(*common, "--force")
    assert (result.code, result.err) == (0, "note: t also holds what is not of this trace, and stays: layer-0/ffn_out.bin\n")
    assert [one.file for one in Trace.open(here / "t").unread] == ["layer-0/ffn_out.bin"]
    for place in (tiny.artifact.directory, tiny.model.path):
        assert f"{place}: " in fails("run", tiny.model.path, "--tokens", TOKENS, "--taps", "ffn_up", "-o", place, "--force")


def test_threads_change_no_byte(tiny: CompiledModel, here: Path) -> None:
    for threads in (1, 2):
        run(tiny.artifact.directory, "--tokens", TOKENS, "--taps", "all", "--layers", "0..3", "-o", f"t{threads}", "--threads", threads)
    assert files_under(here / "t1") == files_under(here / "t2")


# -- which artifact -----------------------------------------------------------------------------------------------------


def test_the_one_artifact_of_this_folder(tiny: CompiledModel, here: Path) -> None:
    shutil.copytree(tiny.artifact.directory, here / "m.llvm.aprg")
    (here / "notes.aprg").write_text("a file, no artifact")
    assert run("--tokens", TOKENS) == run(tiny.artifact.directory, "--tokens", TOKENS)


def test_a_model_is_compiled_into_the_cache_once(tiny_model: Callable[..., Path], here: Path, cache: Path) -> None:
    model = tiny_model(layers=1)
    first = run(model, "--tokens", "1,2", "--target", "reference")
    (place,) = cache.glob(f"{model.stem}.reference.*.aprg")
    manifest = place / "artifact.json"
    written = manifest.stat().st_mtime_ns
    assert run(model, "--tokens", "1,2", "--target", "reference") == first
    assert manifest.stat().st_mtime_ns == written
    assert files_under(here) == {}


def test_an_override_is_another_model(tiny_model: Callable[..., Path], here: Path) -> None:
    model = tiny_model(layers=1)
    common = (model, "--tokens", "1,2", "--taps", "qkv_matmul,q_post_rope", "--target", "reference")
    run(*common, "-o", "a")
    run(*common, "-o", "b", "--override-kv", "llama.rope.freq_base=float:7")
    a, b = Trace.open(here / "a"), Trace.open(here / "b")
    assert np.array_equal(a.tensor("qkv_matmul", 0), b.tensor("qkv_matmul", 0))
    assert not np.array_equal(a.tensor("q_post_rope", 0), b.tensor("q_post_rope", 0))
    result = run_cli("diff", here / "a", here / "b")
    assert result.code == 1
    assert result.out.splitlines()[1].startswith("WHERE  layer 0 q_post_rope: ")


def test_another_process_writes_the_same_bytes(tiny: CompiledModel, here: Path) -> None:
    command = ("run", tiny.artifact.directory, "--tokens", TOKENS, "--taps", "all", "--layers", "0..3", "-o")
    run(*command[1:], "here")
    result = run_process(*command, "there", cwd=here)
    assert (result.code, result.err) == (0, "")
    assert files_under(here / "here") == files_under(here / "there")


# -- NaN and Inf --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with one NaN: in row 5 of layer 1's ffn_up."""
    model = tiny_model(layers=2)
    from aprgraph.graph.sources.gguf_file import GGUFFile

    info, data = GGUFFile(model).tensors["blk.1.ffn_up.weight"], bytearray(model.read_bytes())
    start = info.offset + 5 * info.row_bytes
    data[start : start + 4] = bytes.fromhex("0000c07f")
    path = tmp_path_factory.mktemp("poisoned") / "poisoned.gguf"
    path.write_bytes(data)
    return path


def test_the_first_stage_with_a_nan_is_named(poisoned: Path, here: Path) -> None:
    """In execution order, though `attn_…` of later layers and `final_norm` have NaN too."""
    out = run(poisoned, "--tokens", "1,2,3", "--taps", "all", "--layers", "0..2", "--target", "reference", "-o", "t")
    place, source = out.splitlines()[-2:]
    assert place == "first NaN or Inf: layer 1 ffn_up (3 NaN, 0 Inf of 288, first at position 0, column 5)"
    assert source.startswith("the model file is broken: blk.1.ffn_up.weight holds ")
    assert source.endswith(f"; `aprgraph check {poisoned}` lists all that is wrong with it")
    row = next(line for line in out.splitlines() if line.startswith("ffn_swigl") and line.split()[1] == "1")
    assert row.split()[7] == "3/0"
    lm_head = next(line for line in out.splitlines() if line.startswith("lm_head"))
    assert lm_head.split()[3:8] == ["-", "-", "-", "-", "288/0"]
    assert np.isnan(Trace.open(here / "t").tensor("ffn_up", 1)[:, 5]).all()


def test_the_first_stage_with_a_nan_as_json(poisoned: Path, here: Path) -> None:
    document = run_json(poisoned, "--tokens", "1,2,3", "--taps", "all", "--layers", "0..2", "--target", "reference", "-o", "t")
    assert (document["first_nonfinite"]["stage"], document["first_nonfinite"]["layer"]) == ("ffn_up", 1)
    assert "blk.1.ffn_up.weight holds 1 NaN element (row 5, column 0)" in document["first_nonfinite"]["source"]
    assert document["tensors"][-1]["statistics"] == {
        "count": 288,
        "min": None,
        "max": None,
        "mean": None,
        "rms": None,
        "nan": 288,
        "inf": 0,
    }


def test_logits_that_are_not_finite(poisoned: Path, here: Path) -> None:
    out = run(poisoned, "--tokens", "1,2", "--target", "reference")
    assert "no next token: its logits hold NaN" in out
    assert "NaN or Inf among the logits: the model file is broken: blk.1.ffn_up.weight holds 1 NaN element" in out
    document = run_json(poisoned, "--tokens", "1,2", "--target", "reference")
    assert (document["next"][0]["token"], document["next"][0]["logit"]) == (None, None)
    assert "blk.1.ffn_up.weight" in document["nonfinite_source"]
    assert "; the model file is broken: blk.1.ffn_up.weight holds" in fails(
        "run", poisoned, "--tokens", "1,2", "-n", 2, "--target", "reference"
    )
