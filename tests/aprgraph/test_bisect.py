"""Two targets, rounds of few taps: the stage where they part, in whatever layer it is and however little room there is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.api import CompiledModel
from aprgraph.bisection import Bisection, bisect_compiled
from aprgraph.graph.errors import AprgraphError, ComparisonError
from aprgraph.graph.model import load_model
from aprgraph.graph.tap_plan import Plan
from aprgraph.notebook import LARGEST
from tests.support.blame import TOKENS
from tests.support.cli import fails, files_under, run_cli

Tiny = Callable[..., Path]

LAYERS = 7
IDS = ",".join(map(str, TOKENS))


def damaged(path: Path, copy: Path, tensor: str) -> Path:
    """A copy of the model file with two elements of one tensor exchanged: what a loader with a bug would read."""
    shutil.copyfile(path, copy)
    info = load_model(path).tensor(tensor)
    data = np.memmap(copy, np.float32, "r+", offset=info.offset, shape=info.dims)
    data[[0, 1]] = data[[1, 0]]
    data.flush()
    return copy


@pytest.fixture
def models(tiny_model: Tiny, tmp_path: Path) -> Callable[..., tuple[Path, CompiledModel, CompiledModel]]:
    """``models(tensor)``: the model's file, the model, and the same with that tensor damaged; both interpreted."""

    def make(tensor: str, family: str = "llama") -> tuple[Path, CompiledModel, CompiledModel]:
        path = tiny_model(family=family, layers=LAYERS, format="F32", tied=False)
        other = damaged(path, tmp_path / "damaged.gguf", tensor)
        right, wrong = (
            aprgraph.load(file).compile("reference", tmp_path / f"{name}.aprg") for name, file in (("right", path), ("wrong", other))
        )
        return path, right, wrong

    return make


def search(path: Path, a: CompiledModel, b: CompiledModel, place: Path, room: int = 1 << 30) -> tuple[Bisection, list[tuple[Plan, int]]]:
    announced: list[tuple[Plan, int]] = []
    found = bisect_compiled(
        load_model(path), a, b, TOKENS, place, room=room, on_round=lambda plan, nbytes: announced.append((plan, nbytes))
    )
    return found, announced


@pytest.mark.contract("BLAME-BISECT-1")
def test_from_python_by_the_names_of_targets(models: Callable[..., object], tmp_path: Path) -> None:
    """A side is a target, an artifact's directory, or a compiled model; the traces stay where a directory is given."""
    path, right, wrong = models("blk.2.ffn_down.weight")  # type: ignore[misc]
    found = aprgraph.bisect(path, "reference", wrong.artifact.directory, tokens=TOKENS, directory=tmp_path / "rounds")
    assert found.exit_code == 1
    assert "is not a run of" in found.sentence
    assert "at layer 2 ffn_out" in found.sentence
    assert found.sentence == aprgraph.bisect(right, right, wrong, tokens=TOKENS).sentence.replace("right.aprg", "reference")
    cell = found._repr_html_()
    assert "layer 2 ffn_out" in cell
    assert len(cell) <= LARGEST
    assert "layer 2 ffn_out" in found.to_html()
    alike = aprgraph.bisect(path, right, "reference", tokens=TOKENS)
    assert (alike.exit_code, len(alike.rounds)) == (0, 1)
    with pytest.raises(AprgraphError, match="side a 'metal': expected llvm, cuda, reference, or the directory of an artifact"):
        aprgraph.bisect(path, "metal", tokens=TOKENS)
    with pytest.raises(AprgraphError, match="a prompt and tokens: expected one of them"):
        aprgraph.bisect(path, prompt="a", tokens=TOKENS)


@pytest.mark.contract("BLAME-BISECT-1")
@pytest.mark.each_choice
@pytest.mark.parametrize("layer", [0, 3, LAYERS - 1])
@pytest.mark.parametrize(("tensor", "stage"), [("attn_q.weight", "qkv_matmul"), ("ffn_down.weight", "ffn_out")])
@pytest.mark.parametrize("room", [1 << 30, 16_000])
def test_the_stage_is_found(layer: int, tensor: str, stage: str, room: int, models: Callable[..., object], tmp_path: Path) -> None:
    path, right, wrong = models(f"blk.{layer}.{tensor}")  # type: ignore[misc]
    found, announced = search(path, right, wrong, tmp_path / "rounds", room)
    assert found.report.blame is not None
    first = found.report.blame.b.wrong[0]
    assert first.key == (0, layer, stage)
    assert found.report.blame.a.wrong == ()
    assert found.sentence.startswith(f"b (B) is not a run of {path.name} at layer {layer} {stage}")
    assert any(f"the fault is in {path.name}: blk.{layer}.{tensor}" in note for note in found.summary.notes)
    assert all(nbytes <= room for _, nbytes in announced)
    assert sum(len(data) for name, data in files_under(tmp_path / "rounds").items() if name.endswith(".bin")) <= room
    assert [one.plan for one in found.rounds] == [plan for plan, _ in announced]
    assert len(announced) <= (2 if room > 1 << 20 else 8)


def test_the_head_is_found(models: Callable[..., object], tmp_path: Path) -> None:
    path, right, wrong = models("output.weight")  # type: ignore[misc]
    found, announced = search(path, wrong, right, tmp_path / "rounds")
    assert found.sentence.startswith(f"a (A) is not a run of {path.name} at lm_head")
    assert len(announced) == 1


def test_the_head_of_a_model_that_scales_its_logits_is_found(models: Callable[..., object], tmp_path: Path) -> None:
    path, right, wrong = models("output.weight", "granite")  # type: ignore[misc]
    found, announced = search(path, wrong, right, tmp_path / "rounds")
    assert found.sentence.startswith(f"a (A) is not a run of {path.name} at lm_head_raw")
    assert len(announced) == 1


def test_two_sides_that_are_alike(models: Callable[..., object], tmp_path: Path) -> None:
    path, right, _ = models("output.weight")  # type: ignore[misc]
    found, announced = search(path, right, right, tmp_path / "rounds")
    assert found.report.exit_code == 0
    assert found.sentence.startswith("Alike: all 9 compared tensors agree bit for bit")
    assert len(announced) == 1


def test_too_little_room(models: Callable[..., object], tmp_path: Path) -> None:
    path, right, wrong = models("blk.1.ffn_down.weight")  # type: ignore[misc]
    with pytest.raises(ComparisonError, match="of one layer take .* bytes on both sides, more than the room of 1,000"):
        search(path, right, wrong, tmp_path / "rounds", 1000)
    assert not (tmp_path / "rounds").exists()


@pytest.mark.contract("BLAME-BISECT-1")
def test_command(tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tiny_model(layers=LAYERS, format="F32")
    other = damaged(path, tmp_path / "damaged.gguf", "blk.4.attn_output.weight")
    assert run_cli("compile", other, "--target", "reference", "-o", "wrong.aprg").code == 0
    result = run_cli("bisect", path, "--a", "wrong.aprg", "--b", "llvm", "--tokens", IDS, "--repro", "guilty", "-o", "kept")
    assert result.code == 1
    lines = result.out.splitlines()
    assert lines[0].startswith("taps post_ffn_residual,final_norm,lm_head, layers 0..7: ")
    assert lines[2] == f"wrong.aprg (A) is not a run of {path.name}; llvm (B) is right."
    assert lines[3].startswith("WHERE  layer 4 attn_out, at columns 0 to 1: local error ")
    assert "the last round's traces: kept/a and kept/b" in lines
    assert result.err == "layer 4 attn_out of wrong.aprg (A) alone: python guilty/repro.py\n"
    assert (tmp_path / "guilty/repro.py").is_file()
    assert (tmp_path / "kept/a/layer-4/attn_out.bin").is_file()
    (tmp_path / "kept/notes.txt").write_text("mine")
    message = fails("bisect", path, "--a", "llvm", "--b", "reference", "--tokens", IDS, "-o", "kept")
    assert message == "kept: holds what is of no bisection (notes.txt); give another place with -o"
    (tmp_path / "kept/notes.txt").unlink()
    document = json.loads(run_cli("bisect", path, "--a", "wrong.aprg", "--b", "reference", "--tokens", IDS, "-o", "kept", "--json").out)
    assert [one["diverged"] > 0 for one in document["rounds"]] == [True, True]
    assert (document["exit_code"], document["report"]["blame"]["sides"]["a"]["wrong"]) == (1, 1)
    assert {entry.name for entry in tmp_path.iterdir()} == {"damaged.gguf", "wrong.aprg", "guilty", "kept"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--a", "llvm", "--b", "vulkan"], "--b 'vulkan': expected llvm, cuda, reference, or the directory of an artifact"),
        (["--a", "cuda:x", "--b", "llvm"], "--a 'cuda:x': expected a target alone, or cuda:N"),
        (["--a", "llvm", "--b", "reference", "--room", "0"], "--room '0': expected a number of bytes, such as 500M or 2G"),
        (["--a", "llvm", "--b", "reference", "--room", "many"], "--room 'many': expected a number of bytes, such as 500M or 2G"),
        (["--a", "llvm", "--b", "reference", "--room", "1K", "--tokens", "1,2"], "more than the room of 1,000"),
        (["--a", "llvm", "--b", "reference", "--tokens", "99999"], "99999"),
        (["--a", "llvm", "--b", "reference", "--tokens", "1", "--prompt", "x"], "exclude each other"),
        (["--a", "llvm", "--b", "reference", "--tokens", "1", "--profile", "loose"], "unknown tolerance profile 'loose'"),
    ],
)
def test_errors(arguments: list[str], message: str, tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fails("bisect", tiny_model(), *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.contract("BLAME-MODELS-3")
def test_two_files_of_one_model(tiny_model: Tiny, tmp_path: Path) -> None:
    """Each side is judged by its own file, so that nobody is wrong, and what the file does is said."""
    path = tiny_model(layers=2, format="F32")
    other = damaged(path, tmp_path / "other.gguf", "blk.1.attn_v.weight")
    result = run_cli("bisect", path, "--model-b", other, "--a", "reference", "--b", "reference", "--tokens", IDS)
    assert result.code == 1
    assert "Neither side is wrong: each is right by its own model" in result.out
    assert "blk.1.attn_v.weight: the rows are in another order: A's row 0 is B's 1, 1 is B's 0" in result.out
    error = fails("bisect", path, "--model-b", tiny_model(layers=3), "--a", "reference", "--b", "reference")
    assert "give two files of one model" in error
