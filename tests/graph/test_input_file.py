"""Special files in place of inputs: one line at once, wherever a command reads a file that somebody gave."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import aprgraph
from aprgraph.graph.input_file import read_input, read_input_text
from tests.support.cli import Result, error_of, fails, run_python
from tests.support.traces import values, write_trace


def bind(path: Path) -> None:
    """A socket of that name; its path may be longer than a socket's may be."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "directory": lambda path: path.mkdir(),
    "socket": bind,
}


@pytest.fixture(scope="module")
def place(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    shutil.copy(tiny_model(), folder / "m.gguf")
    aprgraph.load(folder / "m.gguf").compile("reference", folder / "m.aprg")
    for name in ("t", "u"):
        write_trace(folder / name, {(0, "ffn_up"): values(3, 8)})
    (folder / "ids").write_text("1 2 3")
    (folder / "own.py").write_text("")
    return folder


COMMANDS = {
    "t/trace.json": ["diff t u", "inspect t", "audit t --model m.gguf", "graph t"],
    "t/layer-0/ffn_up.bin": ["diff t u", "inspect t/layer-0/ffn_up.bin"],
    "m.aprg/graph.txt": ["run m.aprg --taps lm_head --tokens 1", "graph m.aprg", "inspect m.aprg"],
    "m.aprg/artifact.json": ["run m.aprg --taps lm_head --tokens 1", "graph m.aprg"],
    "ids": ["run m.aprg --taps lm_head --tokens-file ids", "run m.aprg --taps lm_head --prompt-file ids"],
    "own.py": ["graph m.gguf --family own.py"],
    "m.gguf": ["run m.gguf --taps lm_head --tokens 1", "check m.gguf", "inspect m.gguf", "graph m.gguf", "weights m.gguf m.gguf"],
}


@pytest.mark.contract("ERR-SPECIAL-1")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", COMMANDS)
def test_a_special_file_is_one_line(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, kind: str) -> None:
    shutil.copytree(place, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    Path(file).unlink()
    KINDS[kind](Path(file))
    for command in COMMANDS[file]:
        assert len(fails(*command.split())) < 400, command


def test_bounds(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert read_input(path, 3) == b"abc"
    with pytest.raises(OSError, match="has 3 bytes, expected at most 2"):
        read_input(path, 2)
    os.truncate(path, 1 << 40)  # it has no blocks
    with pytest.raises(OSError, match="has 1099511627776 bytes"):
        read_input(path, 1 << 20)
    with pytest.raises(OSError, match="has more than 10 bytes"):
        read_input("/proc/self/status", 10)
    with pytest.raises(OSError, match="embedded null byte"):
        read_input("a\0b", 10)
    path.write_bytes(b"ab\xff")
    with pytest.raises(OSError, match="is not valid UTF-8 at byte 2"):
        read_input_text(path, 10)


def test_a_pipe_without_a_name_is_read_where_that_is_allowed() -> None:
    """``--tokens-file <(command)``."""
    reading, writing = os.pipe()
    os.write(writing, b"1 2 3")
    os.close(writing)
    assert read_input(f"/proc/self/fd/{reading}", 10, pipes=True) == b"1 2 3"
    with pytest.raises(OSError, match="Is a pipe"):
        read_input(f"/proc/self/fd/{reading}", 10)
    os.close(reading)


@pytest.mark.contract("ERR-SPECIAL-1")
def test_standard_input_that_is_closed(place: Path) -> None:
    code = "import os, sys; sys.stdin = None\nfrom aprgraph.cli import main; main()"
    result: Result = run_python(code, "run", "m.aprg", "--taps", "lm_head", "--tokens-file", "-", cwd=place)
    assert error_of(result) == "standard input: cannot be read: Is closed; expected a file with token ids such as 1,2,3"
