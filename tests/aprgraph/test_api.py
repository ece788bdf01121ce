"""The Python API: what `import aprgraph` gives, and what it raises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.api import CompiledModel, RunOptions, check_room
from aprgraph.graph.errors import PlanError, TokenError, TraceError
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.trace import aprt
from tests.support.cli import files_under, run_python

TOKENS = [5, 200, 17]


def test_the_worked_example_of_the_module(tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the docstring has it, on a model beside which traces go."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(tiny_model(), "model.gguf")
    model = aprgraph.load("model.gguf")
    compiled = model.compile(target="reference")
    trace = compiled.run(taps="all", layers="0..2", prompt="What is 2+2?")
    assert trace.directory == Path("model-trace")
    count = len(compiled.encode("What is 2+2?"))
    assert trace.tensor("attn_scores", layer=0).shape == (4, count, count)
    assert not trace.tensor("attn_scores", layer=0).flags.writeable
    report = aprgraph.diff("model-trace", "model-trace")
    assert report.exit_code == 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["model-trace", "model.gguf", "model.reference.aprg"]


def test_every_public_name_is_there() -> None:
    for name in aprgraph.__all__:
        assert getattr(aprgraph, name) is not None
    with pytest.raises(AttributeError, match="module 'aprgraph' has no attribute 'nonsense'"):
        _ = aprgraph.nonsense  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, aprgraph; print([name for name in ('numpy', 'tvm', 'networkx', 'typer') if name in sys.modules])"
    assert run_python(code, cwd=tmp_path).out == "[]\n"


def test_run_returns_the_trace_that_is_on_disk(tiny: CompiledModel, tmp_path: Path) -> None:
    trace = tiny.run("ffn_up,lm_head", "1..3", tokens=TOKENS, directory=tmp_path / "t")
    opened = aprgraph.Trace.open(tmp_path / "t")
    assert trace.entries == opened.entries
    assert trace.info == opened.info
    assert trace.info is not None
    assert (trace.info.tokens, trace.info.plan, trace.info.target) == ((5, 200, 17), "ffn_up,lm_head 1..3", tiny.artifact.target_name)
    graph = opened.graph()
    assert graph is not None
    assert [node.stage for node in graph.with_op("tap")] == ["ffn_up", "ffn_up", "lm_head"]


def test_entries_are_told_as_they_appear(tiny: CompiledModel, tmp_path: Path) -> None:
    seen: list[str] = []

    def on_entry(entry: Any) -> None:
        assert entry.file is not None
        assert (tmp_path / "t" / entry.file).is_file()
        assert not (tmp_path / "t" / "trace.json").exists()
        seen.append(entry.label)

    trace = tiny.run("all", "0..3", tokens=TOKENS, directory=tmp_path / "t", on_entry=on_entry)
    assert seen == [entry.label for entry in trace.entries]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError("mine"), TraceError("mine")])
def test_what_a_listener_raises_ends_the_run_without_a_manifest(tiny: CompiledModel, tmp_path: Path, interruption: Any) -> None:
    def on_entry(entry: Any) -> None:
        if entry.stage == "ffn_norm":
            raise interruption

    with pytest.raises(interruption if isinstance(interruption, type) else type(interruption)):
        tiny.run("all", tokens=TOKENS, directory=tmp_path / "t", on_entry=on_entry)
    files = files_under(tmp_path / "t")
    assert "trace.json" not in files
    assert "layer-0/ffn_norm.bin" in files
    assert not any("tmp" in name for name in files)


def test_tokens_of_numpy(tiny: CompiledModel, tmp_path: Path) -> None:
    a = tiny.run("ffn_up", tokens=np.array(TOKENS), directory=tmp_path / "a")  # type: ignore[arg-type]
    tiny.run("ffn_up", tokens=TOKENS, directory=tmp_path / "b")
    assert files_under(tmp_path / "a") == files_under(tmp_path / "b")
    assert a.info is not None
    assert a.info.tokens == (5, 200, 17)


def test_the_manifest_names_no_place_and_no_time(tiny: CompiledModel, tmp_path: Path) -> None:
    tiny.run("all", "0..3", tokens=TOKENS, directory=tmp_path / "t")
    text = (tmp_path / "t" / "trace.json").read_text()
    assert str(tmp_path) not in text
    assert str(tiny.model.path.parent) not in text
    assert json.loads(text)["model"]["name"] == tiny.model.path.name


def test_bytes_are_told_beforehand(tiny: CompiledModel, tmp_path: Path) -> None:
    for taps, layers, positions in (("all", "0..3", "last"), ("lm_head", "0..1", "all"), ("attn_scores,qkv_bias", "1..3", "last")):
        plan = tiny.plan(parse_plan(taps, layers), TOKENS, RunOptions(positions))
        tiny.record(plan, tmp_path / taps)
        assert plan.nbytes == sum(len(data) for name, data in files_under(tmp_path / taps).items() if name.endswith(".bin"))


def test_more_elements_than_a_file_can_count(tiny: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aprgraph.runs.plan.MAX_ELEMENTS", 800)
    plan = tiny.plan(parse_plan("lm_head"), TOKENS, RunOptions("all"))
    with pytest.raises(TraceError, match=r"^lm_head has 873 elements, more than the 800 of an APRT file; trace fewer positions"):
        _ = plan.nbytes
    assert tiny.plan(parse_plan("lm_head"), TOKENS).nbytes == aprt.file_size(291)


def test_logits(tiny: CompiledModel, reference: CompiledModel) -> None:
    for model in (tiny, reference):
        last, every = model.logits(TOKENS), model.logits(TOKENS, positions="all")
        assert (last.shape, every.shape, last.dtype) == ((291,), (3, 291), np.float32)
        assert last.tobytes() == every[-1].tobytes()


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_out_of_range(tiny: CompiledModel, threads: int) -> None:
    with pytest.raises(aprgraph.AprgraphError, match=f"threads {threads}: expected 1 to 1024"):
        tiny.logits(TOKENS, threads=threads)


def test_what_cannot_be_run(tiny: CompiledModel, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"taps": "nonsense"}, PlanError, "unknown stage 'nonsense'"),
        ({"layers": "3..3"}, PlanError, "no layer in it"),
        ({"layers": "0..4"}, PlanError, "the model has 3 layers"),
        ({"tokens": []}, TokenError, "no tokens to run"),
        ({"tokens": [291]}, TokenError, "outside the vocabulary"),
        ({"tokens": [0.5]}, TokenError, "whole numbers"),
        ({"positions": "first"}, TokenError, "positions 'first': expected last or all"),
        ({"prompt": "", "tokens": None}, TokenError, "the prompt is empty"),
    ]
    for options, kind, message in cases:
        with pytest.raises(kind, match=message):
            tiny.run(**{"tokens": TOKENS, "directory": tmp_path / "t", **options})
    assert files_under(tmp_path) == {}


def test_room_is_looked_for_where_the_directory_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(place: Path) -> Any:
        asked.append(Path(place))
        return shutil._ntuple_diskusage(1 << 40, 0, 1 << 40)

    monkeypatch.setattr("aprgraph.runs.plan.shutil.disk_usage", usage)
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "a" / "b" / "c", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        check_room(place, 5)
    assert asked == [tmp_path, tmp_path, tmp_path / "file", tmp_path]


def test_numbers_beyond_float32_become_inf_without_a_warning(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """The reference computes in float64, and a trace holds float32."""
    model = aprgraph.load(tiny_model(layers=1), {"llama.attention.scale": 1e300}).compile("reference", tmp_path / "m.aprg")
    entry = model.run("attn_scores", tokens=[1, 2], directory=tmp_path / "t").get("attn_scores", 0)
    assert entry.statistics is not None
    assert entry.statistics.inf > 0


def test_prompt_and_tokens_exclude_each_other(tiny: CompiledModel, tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="prompt and tokens exclude each other"):
        tiny.run("lm_head", prompt="a", tokens=TOKENS, directory=tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_run_that_failed_does_not_keep_its_directory(tiny: CompiledModel, tmp_path: Path) -> None:
    """In a notebook the last exception lives on, and with it everything that its frames hold."""

    def stop(_entry: object) -> None:
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop") as kept:
        tiny.run("ffn_up", tokens=TOKENS, directory=tmp_path / "t", on_entry=stop)
    trace = tiny.run("ffn_up", tokens=TOKENS, directory=tmp_path / "t")
    assert len(aprgraph.Trace.open(trace.directory)) == 1
    assert kept.value.__traceback__ is not None
