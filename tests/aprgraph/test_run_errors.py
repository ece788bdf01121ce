"""`aprgraph run` with what cannot be run: one line, exit code 2, nothing written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.api import CompiledModel
from aprgraph.graph.stages import STAGES
from aprgraph.runs import plan as run_plan
from aprgraph.runtime import tvm_session
from aprgraph.runtime.trace import aprt
from aprgraph.runtime.trace.writing_between import write_each
from tests.support.cli import fails, files_under, run_cli


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the command."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def common(tiny: CompiledModel) -> tuple[object, ...]:
    return (tiny.artifact.directory, "--tokens", "1,2,3")


# -- plans --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("taps", "expected"), [
    ("nonsense", "--taps: unknown stage 'nonsense'; this model's stages are: embedding, attn_norm, "),
    ("ffn_up,,ffn_out", "--taps 'ffn_up,,ffn_out': empty stage name; expected a comma list of stage names, or 'all'; this model's stages are: "),
    ("", "empty stage name"),
    (",", "empty stage name"),
    ("all,ffn_up", "'all' stands alone"),
    ("ffn up", "unknown stage 'ffn up' (did you mean 'ffn_up'?); this model's stages are: ffn_up, embedding"),
    ("rope", "unknown stage 'rope'; this model's stages are: q_post_rope, k_post_rope, embedding"),
    ("moe_routr", "unknown stage 'moe_routr' ('moe_router' is not in this model); this model's stages are: embedding"),
])  # fmt: skip
def test_taps(taps: str, expected: str, common: tuple[object, ...], tiny: CompiledModel, here: Path) -> None:
    """What there is, is what this model has; of a model that is not there, what all have."""
    message = fails("run", *common, "--taps", taps)
    assert expected in message
    own = {node.stage for node in tiny.artifact.graph.staged()}
    listed = message.partition("stages are: ")[2].removesuffix(", or 'all'").split(", ")
    assert set(listed) == own
    everywhere = fails("run", "no.gguf", "--taps", taps)
    assert all(stage.name in everywhere for stage in STAGES)
    assert files_under(here) == {}


@pytest.mark.parametrize("layers", ["5..5", "7..3", "0-3", "-1..2", "0..x", "..", "3,", "", "0..1..2", "0.5..1", "0..99999999999999999999"])
def test_layers(layers: str, here: Path) -> None:
    message = fails("run", "no.gguf", "--taps", "all", "--layers", layers)
    assert message.startswith(f"--layers {layers!r}: ")
    assert "such as " in message
    assert files_under(here) == {}


def test_layers_that_the_model_does_not_have(common: tuple[object, ...], here: Path) -> None:
    message = fails("run", *common, "--taps", "ffn_up", "--layers", "2..9", "-o", "t")
    assert message == "--layers 2..9: the model has 3 layers, expected END of at most 3 (END is exclusive)"
    assert files_under(here) == {}


@pytest.mark.parametrize("stage", ["moe_router", "q_norm"])
def test_a_stage_that_the_model_does_not_have(stage: str, common: tuple[object, ...], here: Path) -> None:
    message = fails("run", *common, "--taps", f"ffn_up,{stage}", "-o", "t")
    assert message.startswith(f"--taps: this model has no stage {stage}; its stages are: embedding, attn_norm, qkv_matmul, qkv_bias, ")
    assert "moe" not in message.partition("its stages are")[2]
    assert files_under(here) == {}


def test_embedding_is_of_layer_0(common: tuple[object, ...]) -> None:
    assert "the embedding belongs to layer 0, so add layer 0 to --layers" in fails(
        "run", *common, "--taps", "embedding", "--layers", "1..2"
    )


@pytest.mark.parametrize("option", [["-o", "t"], ["--stats-only"]])
def test_options_that_need_taps(option: list[str], common: tuple[object, ...], here: Path) -> None:
    assert fails("run", *common, *option) == "nothing is saved without --taps; add --taps LIST or --taps all"
    assert files_under(here) == {}


def test_positions(common: tuple[object, ...]) -> None:
    assert fails("run", *common, "--positions", "first") == "--positions 'first': expected last or all"


# -- tokens -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--tokens", "1,291"], "token 291 at position 1 is outside the vocabulary of "),
    (["--tokens", "999999999999"], "token 999999999999 at position 0 is outside the vocabulary of "),
    (["--tokens", ""], "--tokens '': expected token ids separated by commas, such as 1,2,3"),
    (["--tokens", "1,,2"], "--tokens '1,,2': expected token ids"),
    (["--tokens", "-1"], "--tokens '-1': expected token ids"),
    (["--tokens", "hello"], "--tokens 'hello': expected token ids"),
    (["--prompt", ""], "no tokens to run: the prompt is empty; give --prompt TEXT or --tokens 1,2,3"),
    (["--tokens", ",".join(["1"] * 65)], "65 tokens, but "),
    (["--prompt", "x" * 65], "has a context of 64; shorten the prompt"),
    (["--prompt", "a", "--tokens", "1"], "--prompt and --tokens exclude each other; give one of them"),
])  # fmt: skip
def test_tokens(arguments: list[str], expected: str, tiny: CompiledModel, here: Path) -> None:
    for taps in ([], ["--taps", "all", "-o", "t"]):
        assert expected in fails("run", tiny.artifact.directory, *arguments, *taps)
    assert files_under(here) == {}


def test_text_for_a_model_without_a_tokenizer(tiny_model: Callable[..., Path]) -> None:
    message = fails("run", tiny_model(vocabulary=40, tokenizer=False), "--prompt", "hello", "--target", "reference")
    assert "tokenizer" in message


def test_what_can_be_checked_is_checked_before_compiling(tiny_model: Callable[..., Path], cache: Path) -> None:
    model = tiny_model(layers=4)
    for arguments in (
        ["--tokens", "9999"],
        ["--tokens", "1", "--taps", "moe_router"],
        ["--tokens", "1", "--taps", "all", "--layers", "0..5"],
    ):
        fails("run", model, *arguments)
    assert list(cache.glob(f"{model.stem}.*")) == []


# -- where to write -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300, "/proc/nowhere"])
@pytest.mark.parametrize("option", [[], ["--stats-only"]])
def test_places_that_cannot_be_written(place: str, option: list[str], common: tuple[object, ...], here: Path) -> None:
    (here / "file").write_text("kept")
    message = fails("run", *common, "--taps", "ffn_up", "-o", place, *option)
    assert message.startswith(place)
    assert files_under(here) == {"file": b"kept"}


def test_a_folder_in_place_of_a_file(common: tuple[object, ...], here: Path) -> None:
    (here / "t" / "layer-0" / "ffn_up.bin").mkdir(parents=True)
    assert "t/layer-0/ffn_up.bin: cannot be written: Is a directory" in fails("run", *common, "--taps", "ffn_up", "-o", "t")
    assert set(files_under(here)) == {"t/trace.incomplete"}


def test_a_disk_without_room(common: tuple[object, ...], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is computed, and before an older trace is touched."""
    run_cli("run", *common, "--taps", "ffn_up", "-o", "t")
    before = files_under(here)
    monkeypatch.setattr(run_plan.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    message = fails("run", *common, "--taps", "all", "-o", "t")
    assert message.startswith("t: the plan writes ")
    assert (
        "but only 1,000 are free there; tap fewer stages or layers, keep statistics alone (--stats-only), or give another place with -o"
        in message
    )
    assert files_under(here) == before
    assert run_cli("run", *common, "--taps", "all", "-o", "t", "--stats-only").code == 0


def test_a_disk_that_fills_up(common: tuple[object, ...], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole files stay, half ones do not, and there is no manifest that calls the trace complete.

    The kernel that makes files calls the system itself; tests/runtime/test_native_files.py has what becomes of its files.
    """
    monkeypatch.setattr(tvm_session, "write_natively", lambda *given: write_each(given[-1]))
    writev, left = os.writev, [3]

    def full(descriptor: int, buffers: list[memoryview]) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return writev(descriptor, buffers)

    monkeypatch.setattr(aprt.os, "writev", full)
    message = fails("run", *common, "--taps", "all", "-o", "t")
    assert "cannot be written: No space left on device; free some space, or give another place with -o" in message
    assert len(files_under(here)) == 3 + 1  # and the mark that the trace is not whole
    for path in (here / "t").rglob("*.bin"):
        aprt.read_aprt(path)


# -- artifacts ----------------------------------------------------------------------------------------------------------


def test_no_artifact_here() -> None:
    message = fails("run", "--tokens", "1")
    assert message.startswith("no artifact in this folder; name one, or a model: aprgraph run model.gguf")


def test_several_artifacts_here(here: Path) -> None:
    for name in ("b.aprg", "a.aprg"):
        (here / name).mkdir()
    message = fails("run", "--tokens", "1")
    assert message == ("several artifacts in this folder, and none can be read: a.aprg, b.aprg; name one of them, which says why not")


def test_of_several_artifacts_none_for_the_target(common: tuple[object, ...], here: Path) -> None:
    shutil.copytree(common[0], here / "a.aprg")
    shutil.copytree(common[0], here / "b.aprg")
    message = fails("run", "--tokens", "1", "--target", "cuda")
    assert message == "several artifacts in this folder, none of them for cuda: a.aprg, b.aprg; name one of them"


def test_an_artifact_with_options_that_belong_to_models(common: tuple[object, ...]) -> None:
    message = fails("run", *common, "--override-kv", "llama.rope.freq_base=float:1")
    assert "--override-kv changes the graph, so it must be given to `aprgraph compile`, or to run with the MODEL" in message
    message = fails("run", *common, "--target", "reference")
    assert "compiled for llvm, not for reference; compile the model with --target reference" in message


def test_a_model_with_options_that_belong_to_artifacts(model_path: Path) -> None:
    assert "--model goes with an artifact directory, and this is none" in fails("run", model_path, "--model", model_path)


def test_a_target_that_there_is_not(model_path: Path) -> None:
    assert (
        fails("run", model_path, "--tokens", "1", "--target", "vulkan") == "unknown target 'vulkan'; expected one of llvm, cuda, reference"
    )


def test_a_folder_that_is_no_artifact(here: Path) -> None:
    (here / "d").mkdir()
    assert fails("run", "d").startswith(
        "d: not an artifact (no artifact.json) but an empty folder; make one with `aprgraph compile MODEL.gguf`"
    )


def test_the_model_of_an_artifact(tiny: CompiledModel, here: Path) -> None:
    """Gone, moved, changed."""
    shutil.copyfile(tiny.model.path, here / "m.gguf")
    assert run_cli("compile", "m.gguf", "--target", "reference").code == 0
    (here / "m.gguf").rename(here / "moved.gguf")
    artifact = "m.reference.aprg"
    assert (
        fails("run", artifact, "--tokens", "1")
        == f"{artifact}: its model {here}/m.gguf is not there; give its place with --model, or compile again"
    )
    assert run_cli("run", artifact, "--tokens", "1", "--model", "moved.gguf").code == 0
    with (here / "moved.gguf").open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"\x99")
    message = fails("run", artifact, "--tokens", "1", "--model", "moved.gguf")
    assert message == f"{artifact}: moved.gguf is not the file it was compiled from, or has changed since; compile it again"
