"""`aprgraph compile`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.codegen import compile_model, linker
from aprgraph.codegen.artifact import read_artifact
from aprgraph.codegen.cpu import levels
from tests.support.cli import fails, files_under, run_cli


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the command."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(layers=1)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the compiler: these tests are about what is around it."""
    monkeypatch.setattr(compile_model, "build_library", lambda _requests, chosen, path: path.write_text(chosen.name))


def test_the_default_place_is_here(model: Path, here: Path) -> None:
    result = run_cli("compile", model, "--target", "reference")
    assert (result.code, result.out, result.err) == (0, f"{model.stem}.reference.aprg/ (reference)\n", "")
    assert [path.name for path in here.iterdir()] == [f"{model.stem}.reference.aprg"]


@pytest.mark.usefixtures("fast")
def test_llvm_is_the_default_target(model: Path, here: Path) -> None:
    result = run_cli("compile", model, "-o", "deep/er/m.aprg")
    artifact = read_artifact(here / "deep" / "er" / "m.aprg")
    assert result.out == f"deep/er/m.aprg/ (llvm {levels.native_cpu().name}, {len(artifact.kernels)} kernels)\n"
    assert artifact.target == "llvm"


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("name", levels.CPUS)
def test_another_machine(model: Path, here: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that this machine could not run."""
    monkeypatch.setattr(levels, "machine_flags", lambda: frozenset(levels.CPUS["x86-64-v2"].flags))
    assert run_cli("compile", model, "-o", "m.aprg", "--cpu", name).code == 0
    assert read_artifact("m.aprg").cpu == name
    inspected = run_cli("inspect", "m.aprg")
    assert (inspected.code, f"target: llvm {name}\n" in inspected.out) == (0, True)
    if name != "x86-64-v2":
        assert f"m.aprg: built for {name}, but this machine " in fails("run", "m.aprg", "--tokens", "1")


def test_json(model: Path, here: Path) -> None:
    result = run_cli("compile", model, "--target", "reference", "--json", "-o", "m.aprg")
    identity = hashlib.sha256(Path("m.aprg/artifact.json").read_bytes()).hexdigest()
    assert json.loads(result.out) == {"artifact": "m.aprg", "identity": identity, "target": "reference", "cpu": None, "kernels": {}}


def test_compiling_again_replaces(model: Path, here: Path) -> None:
    for base in ("5", "6"):
        assert (
            run_cli("compile", model, "--target", "reference", "-o", "m.aprg", "--override-kv", f"llama.rope.freq_base=float:{base}").code
            == 0
        )
    assert read_artifact("m.aprg").overrides == {"llama.rope.freq_base": 6.0}
    assert [path.name for path in here.iterdir()] == ["m.aprg"]


def test_a_place_that_is_taken(model: Path, here: Path) -> None:
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.txt").write_text("text")
    message = fails("compile", model, "-o", "thesis")
    assert message == "thesis: is there, and is no artifact; remove it, or give another place with -o"
    assert files_under(here) == {"thesis/chapter.txt": b"text"}


def test_without_a_linker_for_another_machine(model: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linker, "find_program", lambda _name: None)
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda _name: None)
    message = fails("compile", model, "--cpu", "aarch64", "-o", "m.aprg")
    assert message.startswith("no linker for aarch64: ")
    assert "(Debian's package gcc-aarch64-linux-gnu)" in message
    assert files_under(here) == {}


@pytest.mark.parametrize(("options", "expected"), [
    (["--target", "vulkan"], "unknown target 'vulkan'; expected one of llvm, cuda, reference"),
    (["--cpu", "z80"], "unknown CPU 'z80'; expected one of x86-64-v2, x86-64-v3, x86-64-v4, x86-64-v4-vnni"),
    (["-o", "file"], "file: is there, and is no artifact"),
    (["-o", "file/m.aprg"], "file/m.aprg: cannot be written: "),
    (["-o", "x" * 300], "cannot be written: File name too long"),
    (["-o", "."], ".: is there, and is no artifact"),
])  # fmt: skip
def test_what_cannot_be_compiled(options: list[str], expected: str, model: Path, here: Path) -> None:
    (here / "file").write_text("kept")
    assert expected in fails("compile", model, *options)
    assert files_under(here) == {"file": b"kept"}
