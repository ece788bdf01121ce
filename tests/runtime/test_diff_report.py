"""The report as JSON, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import aprgraph
from aprgraph.cli.diff import diff as command
from aprgraph.graph.errors import AprgraphError
from aprgraph.runtime.diff import PROFILES, Class, diff
from tests.support.cli import run_cli
from tests.support.traces import noisy, trace_model, values, write_trace

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)


@pytest.fixture
def traces(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    """A folder with a, alike (noise), other (another RoPE base)."""
    trace_model(tmp_path / "a", tiny_model())
    trace_model(tmp_path / "alike", tiny_model(), noise=5e-7)
    trace_model(tmp_path / "other", tiny_model(), overrides={"llama.rope.freq_base": 500000.0})
    return tmp_path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_json_has_its_format_and_every_tensor(traces: Path) -> None:
    code, output = run(traces / "a", traces / "other", "--json")
    report = json.loads(output, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert code == report["exit_code"] == 1
    assert (report["format"], report["version"], report["profile"]) == ("aprgraph-diff", 3, "same-graph-f32")
    assert [first["label"] for first in report["first"]] == ["layer 0 q_post_rope", "layer 0 k_post_rope"]
    assert report["first"][0]["good"] == ["layer 0 qkv_matmul"]
    assert report["common_suspects"] == ["rope_angles"]
    assert len(report["rows"]) == sum(report["counts"].values()) == 35
    row = next(row for row in report["rows"] if row["stage"] == "q_post_rope")
    assert row["class"] == "INTRODUCED"
    assert row["node"] == "layer0.q_post_rope"
    assert row["metrics"]["nmse"] > row["limit"]
    assert report["rows"][-1]["logits"]["top"] == 10
    assert json.loads(run(traces / "a", traces / "other", "--json", "--top", 3)[1])["rows"][-1]["logits"]["top"] == 3


def test_json_has_no_nan_even_where_the_tensors_hold_nothing_else(tmp_path: Path) -> None:
    nothing = np.full((2, 4), np.nan, np.float32)
    write_trace(tmp_path / "a", {(0, "ffn_up"): nothing, (None, "lm_head"): nothing})
    write_trace(tmp_path / "b", {(0, "ffn_up"): np.full((2, 4), np.inf, np.float32), (None, "lm_head"): np.zeros((2, 4), np.float32)})
    for first, second in (("a", "b"), ("b", "a"), ("a", "a")):
        report = diff(tmp_path / first, tmp_path / second)
        assert json.loads(json.dumps(report.to_json(), allow_nan=False))["exit_code"] == report.exit_code
        run(tmp_path / first, tmp_path / second)


def test_the_verdict_comes_first_and_the_rows_that_matter_after(traces: Path) -> None:
    code, output = run(traces / "a", traces / "other")
    lines = output.splitlines()
    assert code == 1
    summary = diff(traces / "a", traces / "other").summary
    assert lines[0] == summary.outcome == "Diverged: 32 of 35 compared tensors differ."
    assert lines[1].startswith("WHERE  layer 0 q_post_rope: NMSE ")
    assert "WHY    the graphs differ at %rope_angles: base = 10000.0 in A, 500000.0 in B" in lines or summary.why[0] in output
    assert "\x1b" not in output
    assert sum(line.startswith("▶  INTRODUCED") for line in lines) == 2
    assert "tensors: 3 IDENTICAL, 30 PROPAGATED, 2 INTRODUCED" in lines
    shown = next(line for line in lines if line.endswith("--all prints every one"))
    assert shown.startswith("5 of 35 tensors")
    _, output = run(traces / "a", traces / "other", "--all")
    assert sum(line.startswith("   PROPAGATED") for line in output.splitlines()) == 30
    assert "--all" not in output


@pytest.mark.contract("DIFF-EXIT-1")
def test_exit_codes(traces: Path, tmp_path: Path) -> None:
    assert run(traces / "a", traces / "a") == (0, run(traces / "a", traces / "a")[1])
    assert run(traces / "a", traces / "alike")[0] == 0
    assert run(traces / "other", traces / "a")[0] == 1
    write_trace(tmp_path / "elsewhere", {(9, "ffn_up"): values(5, 96)}, tokens=(3, 1, 4, 1, 5))
    code, output = run(traces / "a", tmp_path / "elsewhere")
    assert code == 3
    assert output.startswith("Nothing was measured")
    with pytest.raises(AprgraphError):
        run(traces / "a", tmp_path / "nowhere")
    with pytest.raises(AprgraphError):
        run(traces / "a", traces / "other", "--profile", "loose")


def test_a_profile_decides(tmp_path: Path) -> None:
    x = values(4, 96)
    write_trace(tmp_path / "a", {(0, "ffn_up"): x})
    write_trace(tmp_path / "b", {(0, "ffn_up"): noisy(x, 0.02)})
    assert run(tmp_path / "a", tmp_path / "b")[0] == 1
    assert run(tmp_path / "a", tmp_path / "b", "--profile", "cross-engine-q8act")[0] == 0


@pytest.mark.contract("DIFF-SYMMETRY-1")
def test_both_orders_agree(traces: Path) -> None:
    one, other = diff(traces / "a", traces / "other"), diff(traces / "other", traces / "a")
    first, graphs = one.verdict.split(" The graphs differ at ")
    assert other.verdict.split(" The graphs differ at ")[0] == first
    assert graphs == "%rope_angles: base = 10000.0 in A, 500000.0 in B."
    assert one.counts == other.counts
    assert one.first == other.first


def test_colours_for_pictures(traces: Path) -> None:
    colouring = diff(traces / "a", traces / "other").colouring()
    name, error = colouring[0, "q_post_rope"]
    assert name == "INTRODUCED"
    assert error is not None
    assert error > 1e-4
    assert colouring[0, "embedding"] == (Class.IDENTICAL.value, 0.0)
    assert (None, "lm_head") in colouring


def test_progress_is_told_of_every_tensor(traces: Path) -> None:
    told: list[tuple[int, int, str]] = []
    diff(traces / "a", traces / "alike", progress=lambda *now: told.append(now))
    assert [done for done, _, _ in told] == list(range(35))
    assert {total for _, total, _ in told} == {35}
    assert told[0][2] == "layer 0 embedding"


def test_the_command_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("numpy", "networkx", "rich", "tvm")
    code = f"import sys, aprgraph.cli.diff; print([name for name in {heavy!r} if name in sys.modules])"
    assert aprgraph.__file__ is not None
    environment = {**os.environ, "PYTHONPATH": str(Path(aprgraph.__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert result.stdout.strip() == "[]"


def test_the_help_names_every_profile_and_how_to_set_a_limit() -> None:
    shown = run_cli("diff", "--help")
    assert shown.code == 0
    text = "".join(shown.out.split())  # a narrow terminal breaks words
    for name in (*PROFILES, "--profile", "--tol", "--top", "--json", "--all", "nmse:1e-6", "ids:0.05", "docs/tolerances.md"):
        assert name in text, name


@pytest.mark.contract("DIFF-TOL-1")
def test_a_limit_that_is_set_is_marked(tmp_path: Path) -> None:
    x = values(30, 96)
    write_trace(tmp_path / "a", {(0, "ffn_up"): x, (0, "attn_out"): x})
    write_trace(tmp_path / "b", {(0, "ffn_up"): noisy(x, 1e-3), (0, "attn_out"): noisy(x, 1e-7)})
    assert run(tmp_path / "a", tmp_path / "b")[0] == 1
    code, output = run(tmp_path / "a", tmp_path / "b", "--tol", "ffn_.*=nmse:2.5e-5", "--all")
    assert code == 0
    assert "limits marked * (1 tensor) are set by 'ffn_.*=nmse:2.5e-5'" in output
    lines = output.splitlines()
    assert "2.5e-05*" in next(line for line in lines if "layer 0 ffn_up" in line)
    assert "*" not in next(line for line in lines if "layer 0 attn_out" in line)
    document = json.loads(run(tmp_path / "a", tmp_path / "b", "--tol", "ffn_.*=nmse:2.5e-5", "--json")[1])
    assert [row["override"] for row in document["rows"]] == [None, "ffn_.*=nmse:2.5e-5"]
    with pytest.raises(AprgraphError, match=r"applies to no stage"):
        run(tmp_path / "a", tmp_path / "b", "--tol", "ffn_down=nmse:1")


def test_the_profile_and_why_are_a_note(traces: Path) -> None:
    assert "NOTES  tolerances of same-graph-f32: both sides compute in float32" in run(traces / "a", traces / "alike")[1]
    assert "NOTES  tolerances of same-graph-f16: as asked for" in run(traces / "a", traces / "alike", "--profile", "same-graph-f16")[1]


def test_layers_that_one_side_lacks_are_a_note_and_no_rows(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(layers=4)
    trace_model(tmp_path / "a", path, layers=4)
    trace_model(tmp_path / "b", path, layers=1)
    code, output = run(tmp_path / "a", tmp_path / "b", "--all")
    assert code == 0
    assert "B has layer 0 of the 4 recorded; layers 1..3, which A has, are not compared" in output
    assert "layer 0 ffn_up" in output
    assert "layer 2 ffn_up" not in output
    assert "the others are of layers that one side lacks" in output.splitlines()[-1]


def test_rows_that_are_not_measured_for_another_reason_are_shown(tmp_path: Path) -> None:
    tensors = {(0, "ffn_up"): values(3, 8), (1, "ffn_up"): values(3, 8)}
    write_trace(tmp_path / "a", tensors)
    write_trace(tmp_path / "b", tensors, stats_only=True)
    code, output = run(tmp_path / "a", tmp_path / "b", "--all")
    assert code == 3
    assert sum(line.lstrip().startswith("UNMEASURED") for line in output.splitlines()) == 2
