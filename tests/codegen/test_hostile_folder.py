"""The current folder and a model's folder are places of data: no module, program or setting in them is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.codegen.linker import linker
from aprgraph.codegen.programs import environment, find_program
from aprgraph.graph.whole_file import temporary_name, write_whole

#: What Python, pip, pytest, TVM and compilers may look for where they are started.
MODULES = (
    "sitecustomize",
    "usercustomize",
    "aprgraph",
    "numpy",
    "tvm",
    "jinja2",
    "json",
    "ziglang/__main__",
    "tokenizers/__init__",
    "conftest",
)
PROGRAMS = ("cc", "gcc", "clang", "ld", "as", "nvcc", "git", "python", "python3", "zig")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a trap for each; sprung, they make the file "told" beside it."""
    folder, told = tmp_path / "downloaded", tmp_path / "told"
    for name in MODULES:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(told)!r}, 'a').write({name!r})\n")
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {told}\nexit 1\n")
        (folder / name).chmod(0o755)
    (folder / "pyproject.toml").write_text("[tool.aprgraph]\n")
    return folder


@pytest.mark.contract("SAFE-FOLDER-1")
def test_nothing_in_a_downloaded_folder_is_run(hostile: Path, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """By the installed script, as people start it, with a PATH that has the current folder in it, first."""
    shutil.copyfile(tiny_model(layers=1), hostile / "m.gguf")
    script = Path(sys.executable).with_name("aprgraph")
    path = os.pathsep.join(["", ".", os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONSAFEPATH": ""}
    for arguments in (
        ["compile", "m.gguf", "-o", "m.aprg"],
        ["run", "m.gguf", "--target", "reference", "--chat", "--prompt", "x"],
        ["contracts"],
    ):
        done = subprocess.run([sys.executable, script, *arguments], cwd=hostile, env=env, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
    assert (hostile / "m.aprg/artifact.json").exists()
    assert not (tmp_path / "told").exists(), (tmp_path / "told").read_text()


def test_programs_are_looked_for_in_whole_paths(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hostile)
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "downloaded", str(hostile.parent)]))
    assert find_program("cc") is None
    assert environment()["PATH"] == str(hostile.parent)
    monkeypatch.setenv("PATH", str(hostile))  # which somebody has said in full
    assert linker() == [str(hostile / "cc")]


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path: Path) -> None:
    """Its name can be told in advance."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    Path(temporary_name(str(tmp_path / "new"))).symlink_to(victim)
    write_whole(tmp_path / "new", b"data")
    assert (victim.read_text(), (tmp_path / "new").read_bytes()) == ("mine", b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "victim"]
