"""The guilty stage alone: the script shows the error by itself, in a process of its own, whatever the stage."""

from __future__ import annotations

import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import ComparisonError, TraceError
from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import audit
from aprgraph.runtime.blame.repro import write_repro
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import TOKENS, bare, spoil, traced
from tests.support.cli import error_of, files_under, run_process
from tests.support.traces import Tensor, noisy

Tiny = Callable[..., Path]


def shifted(values: Tensor) -> Tensor:
    return np.roll(values, 1, axis=-1)


def one_channel(values: Tensor) -> Tensor:
    """Too little for the tensor as a whole: one channel of one position."""
    values[-1, 3] *= np.float32(1 + 4e-4)
    return values


def planted(values: Tensor) -> Tensor:
    values.flat[5] = np.nan
    return values


@dataclass(frozen=True)
class Shown:
    """What a script left: its exit code, and what it says is wrong."""

    returncode: int
    reason: str | None


def run(script: Path) -> Shown:
    """Run a script from a folder that is not its own, as the command that is printed does."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    reason = ended.value.code
    return Shown(0 if reason is None else 1, None if reason is None else str(reason))


@pytest.mark.contract("BLAME-REPRO-1")
@pytest.mark.parametrize(
    ("stage", "layer", "step", "fault"),
    [
        ("embedding", 0, 0, shifted),
        ("attn_norm", 1, 0, noisy),
        ("qkv_matmul", 1, 1, shifted),
        ("q_norm", 0, 0, shifted),
        ("k_post_rope", 1, 2, shifted),
        ("attn_scores", 1, 2, shifted),
        ("attention", 0, 2, shifted),
        ("attn_out", 0, 0, one_channel),
        ("moe_router", 0, 0, shifted),
        ("moe_router_indices", 1, 0, lambda values: (values + 1) % 8),
        ("moe_expert_gate", 1, 0, shifted),
        ("moe_expert_out", 1, 2, planted),
        ("moe_ffn_out", 0, 0, shifted),
        ("final_norm", None, 0, shifted),
        ("lm_head", None, 1, shifted),
    ],
)
def test_the_script_shows_the_error(
    stage: str, layer: int | None, step: int, fault: Callable[[Tensor], Tensor], tiny_model: Tiny, tmp_path: Path
) -> None:
    path = tiny_model(family="qwen3moe", format="Q8_0")
    trace = traced(tmp_path / "trace", path, max_tokens=3, steps="0..3")
    before = [np.array(trace.tensor(stage, layer, step))]
    spoil(trace, stage, layer, (lambda values: noisy(values, 1e-3)) if fault is noisy else fault, step)
    model = load_model(path)
    local = audit(trace, model).by_key[step, layer, stage]
    script = write_repro(tmp_path / "guilty", trace, model, local)
    shown = run(script)
    assert shown.returncode == 1
    assert shown.reason == ("NaN or Inf on one side alone, elements: 1" if fault is planted else local.reason)
    assert len([line for line in script.read_text().splitlines() if line]) < 25
    expected, actual = (np.load(tmp_path / "guilty" / f"{name}.npy") for name in ("expected", "actual"))
    assert np.array_equal(actual.ravel(), np.array(trace.tensor(stage, layer, step)).ravel(), equal_nan=True)
    assert np.allclose(expected.ravel(), before[0].ravel(), rtol=1e-5, atol=1e-6)
    # With the error put right, the script says so: it does not just always fail.
    np.save(tmp_path / "guilty/actual.npy", before[0].reshape(actual.shape))
    assert run(script).returncode == 0


def test_a_process_of_its_own(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    trace = traced(tmp_path / "trace", path)
    spoil(trace, "ffn_out", 1, shifted)
    model = load_model(path)
    local = audit(trace, model).by_key[0, 1, "ffn_out"]
    script = write_repro(tmp_path / "guilty", trace, model, local)
    shown = subprocess.run([sys.executable, str(script)], cwd="/", capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (1, f"{local.reason}\n")
    assert shown.stdout.startswith(f"NMSE {local.error:.2e}, limit 1e-11; worst at (")


def test_few_taps_give_a_longer_script(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model(format="Q4_0")
    trace = traced(tmp_path / "trace", path, taps="ffn_norm,ffn_out")
    spoil(trace, "ffn_out", 1, shifted)
    model = load_model(path)
    script = write_repro(tmp_path / "guilty", trace, model, audit(trace, model).by_key[0, 1, "ffn_out"])
    assert run(script).returncode == 1
    assert {path.name for path in script.parent.iterdir()} == {
        "repro.py", "repro.json", "actual.npy", "expected.npy", "layer1.ffn_norm.npy",
        *(f"blk.1.ffn_{name}.weight{end}" for name in ("gate", "up", "down") for end in (".npy", ".q4_0-blocks.npy")),
    }  # fmt: skip


def test_only_the_rows_that_are_read_take_room(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model(family="qwen3moe", vocabulary=272)
    trace = traced(tmp_path / "trace", path)
    model = load_model(path)
    found = audit(trace, model)
    table = np.load(write_repro(tmp_path / "one", trace, model, found.by_key[0, 0, "embedding"]).parent / "token_embd.weight.npy")
    assert set(np.flatnonzero(table.any(axis=1))) == set(TOKENS)
    gate = np.load(
        write_repro(tmp_path / "two", trace, model, found.by_key[0, 1, "moe_expert_gate"]).parent / "blk.1.ffn_gate_exps.weight.npy"
    )
    chosen = {int(expert) for expert in np.array(trace.tensor("moe_router_indices", 1)).ravel()}
    assert set(np.flatnonzero(gate.any(axis=(1, 2)))) == chosen


def test_a_full_disk(tiny_model: Tiny, tmp_path: Path) -> None:
    """A limit on the size of files stands for it: the weight does not fit. One line, and nothing stays."""
    path = tiny_model()
    traced(tmp_path / "trace", path)
    spoil(Trace.open(tmp_path / "trace"), "ffn_out", 1, shifted)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    result = run_process("audit", "trace", "--model", path, "--repro", "guilty", cwd=tmp_path, preexec=limit)
    assert error_of(result).startswith("guilty: cannot be written: ")
    assert {entry.name for entry in tmp_path.iterdir()} == {"trace", "trace.aprg"}


def test_a_folder_of_someone_else_is_left_alone(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    trace = traced(tmp_path / "trace", path)
    model = load_model(path)
    local = audit(trace, model).by_key[0, 1, "ffn_out"]
    (tmp_path / "guilty").mkdir()
    (tmp_path / "guilty/mine").write_text("mine")
    with pytest.raises(TraceError, match="is not an empty folder"):
        write_repro(tmp_path / "guilty", trace, model, local)
    assert files_under(tmp_path / "guilty") == {"mine": b"mine"}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TraceError, match="is not an empty folder"):
        write_repro(tmp_path / "file", trace, model, local)
    with pytest.raises(TraceError, match="cannot be written"):
        write_repro(tmp_path / "file/below", trace, model, local)
    (tmp_path / "empty").mkdir()
    assert write_repro(tmp_path / "empty", trace, model, local).is_file()


def test_a_stage_that_was_not_replayed_cannot_be_shown(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    directory = bare(traced(tmp_path / "trace", path))
    model = load_model(path)
    trace = Trace.open(directory)
    with pytest.raises(ComparisonError, match="layer 0 embedding of .* was not replayed, so there is nothing to show"):
        write_repro(tmp_path / "guilty", trace, model, audit(trace, model).by_key[0, 0, "embedding"])
    assert not (tmp_path / "guilty").exists()


def test_names_that_a_script_must_quote(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    trace = traced(tmp_path / 'quo"""te\\ né', path)
    model = load_model(path)
    script = write_repro(tmp_path / "guilty", trace, model, audit(trace, model).by_key[0, 1, "ffn_out"])
    assert run(script).returncode == 0
