"""`aprgraph run --rpc`: what it prints and leaves, and its errors."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aprgraph.api import CompiledModel
from aprgraph.codegen.cache.artifacts import cache_directory
from aprgraph.codegen.cpu.levels import CPUS
from tests.support.cli import error_of, fails, files_under, run_cli, run_python
from tests.support.rpc_server import RpcServer, rpc_server

#: Ends the server's processes at the third tap, in a process in which SIGPIPE does what the shell's tools expect.
_KILL_AT_THE_THIRD_TAP = """
import os, signal, sys
from aprgraph.cli import main
from aprgraph.runtime.remote.engine import RemoteEngine

summarise, taps = RemoteEngine.summarise_value, []
def summarise_or_kill(self, value):
    taps.append(value)
    if len(taps) == 3:
        os.killpg(int(os.environ["SERVER"]), signal.SIGKILL)
    return summarise(self, value)
RemoteEngine.summarise_value = summarise_or_kill
main()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcServer]:
    with rpc_server(tmp_path_factory.mktemp("server") / "log", runtime_alone=True) as server:
        yield server


@pytest.mark.contract("REMOTE-BITS-1")
@pytest.mark.parametrize("options", [(), ("--json",), ("--max-tokens", "3", "--steps", "1..3", "--prefill-chunk", "2")])
def test_it_prints_and_leaves_what_a_run_here_does(
    tiny: CompiledModel, server: RpcServer, options: tuple[str, ...], tmp_path: Path
) -> None:
    run = ("run", tiny.artifact.directory, "--tokens", "5,200,17", "--taps", "all", "--layers", "0..2", "-o", tmp_path / "t", *options)
    here = run_cli(*run)
    expected = files_under(tmp_path / "t")
    (tmp_path / "t").rename(tmp_path / "here")
    there = run_cli(*run, "--rpc", server.address)
    assert (there.code, there.err, there.out) == (0, here.err, here.out)
    assert files_under(tmp_path / "t") == expected


def test_a_model_is_compiled_here_and_a_text_comes_as_it_is_generated(tiny: CompiledModel, server: RpcServer) -> None:
    place = cache_directory(tiny.model, "llvm", None)  # with what compiling gives, which takes seconds
    shutil.copytree(tiny.artifact.directory, place, dirs_exist_ok=True)
    run = ("run", tiny.model.path, "--tokens", "5,200,17")
    for options in ((), ("--max-tokens", "4"), ("--positions", "all", "--threads", "1")):
        assert run_cli(*run, *options, "--rpc", server.address) == run_cli(*run, *options)


def test_an_artifact_for_a_processor_that_this_machine_is_not(
    tiny: CompiledModel, server: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aprgraph.codegen.cpu.levels.machine_flags", lambda: frozenset(CPUS["x86-64-v2"].flags[:-1]))
    run = ("run", tiny.artifact.directory, "--tokens", "5,200,17")
    assert "but this machine lacks sse4_2" in fails(*run)
    assert run_cli(*run, "--rpc", server.address).code == 0


@pytest.mark.contract("REMOTE-LOST-1")
def test_a_server_that_dies_in_the_middle(tiny: CompiledModel, server: RpcServer, tmp_path: Path) -> None:
    """The last test with this server."""
    result = run_python(
        _KILL_AT_THE_THIRD_TAP, "run", tiny.artifact.directory, "--tokens", "5,200,17", "--taps", "all", "-o", "t", "--rpc", server.address,
        cwd=tmp_path, env={"SERVER": str(server.process.pid)},
    )  # fmt: skip
    assert re.match(rf"{server.address}: the connection was lost while fetching layer 0 [a-z_]+ \(.*\); ", error_of(result))
    assert (tmp_path / "t" / "trace.incomplete").exists()
    assert not (tmp_path / "t" / "trace.json").exists()
    assert len(files_under(tmp_path / "t" / "layer-0")) == 2


def test_errors(model_path: Path, reference: CompiledModel, tmp_path: Path) -> None:
    run = ("run", model_path, "--tokens", "5,200,17", "--taps", "all", "-o", tmp_path / "t")
    assert "expected HOST:PORT or HOST:PORT/KEY" in fails(*run, "--rpc", "board")
    assert "connection refused, no server is there" in fails(*run, "--rpc", "127.0.0.1:1")
    assert "--rpc runs compiled kernels, and --target reference has none; leave out one" in fails(
        *run, "--rpc", "127.0.0.1:1", "--target", "reference"
    )
    assert not (tmp_path / "t").exists()
    message = fails("run", reference.artifact.directory, "--tokens", "1", "--rpc", "127.0.0.1:1")
    assert "the reference target runs on this machine alone; leave out --rpc, or compile" in message
