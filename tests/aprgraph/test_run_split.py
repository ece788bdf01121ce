"""`aprgraph run --split`: layers on several servers, what it leaves, and its errors."""

from __future__ import annotations

import multiprocessing
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aprgraph.api import CompiledModel, RunOptions
from aprgraph.graph.errors import ExecutorError, NonFiniteError
from aprgraph.graph.model import load_model
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runs.execute import execute
from aprgraph.runs.open_engine import open_engine
from aprgraph.runtime.remote.tensors import RemoteTensors
from tests.support.cli import error_of, fails, files_under, run_cli, run_python
from tests.support.compiled import compiled
from tests.support.golden import golden_models
from tests.support.rpc_server import RpcServer, rpc_server

#: Ends the second server's processes at its third tap.
_KILL_THE_SECOND = """
import os, signal, sys
from aprgraph.cli import main
from aprgraph.runtime.remote.engine import RemoteEngine

summarise, taps = RemoteEngine.summarise_value, []
def summarise_or_kill(self, value):
    if str(self._connection.address) == os.environ["ADDRESS"]:
        taps.append(value)
    if len(taps) == 3:
        os.killpg(int(os.environ["SERVER"]), signal.SIGKILL)
    return summarise(self, value)
RemoteEngine.summarise_value = summarise_or_kill
main()
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RpcServer, RpcServer]]:
    place = tmp_path_factory.mktemp("servers")
    with rpc_server(place / "one", runtime_alone=True) as one, rpc_server(place / "two", runtime_alone=True) as two:
        yield one, two


def _model(name: str, tiny: CompiledModel) -> CompiledModel:
    return tiny if name == "tiny" else compiled(next(golden.path for golden in golden_models() if golden.name == name))


def _but_for_the_earlier_trace(said: str) -> str:
    """What a run said, without that it replaced the trace of the one before."""
    return "".join(line for line in said.splitlines(keepends=True) if "holds an earlier trace" not in line)


@pytest.mark.contract("SPLIT-BITS-1")
@pytest.mark.parametrize("name", ["tiny", "gemma3n-f32", "qwen2moe-f32"])
def test_it_prints_and_leaves_what_a_run_here_does(
    name: str, tiny: CompiledModel, servers: tuple[RpcServer, RpcServer], tmp_path: Path
) -> None:
    model = _model(name, tiny)
    cut = model.model.family.layers - 1  # behind the layer whose keys the last one of gemma3n attends to
    split = f"0..{cut}@{servers[0].address},{cut}..@{servers[1].address}"
    kinds: list[tuple[str, ...]] = [("--json",), ("--max-tokens", "3", "--steps", "1..3", "--prefill-chunk", "2"), ("--stats-only",)]
    for options in kinds:
        run = ("run", model.artifact.directory, "--tokens", "5,20,17", "--taps", "all", "--layers", "all", "-o", tmp_path / "t", *options)
        here = run_cli(*run)
        expected = files_under(tmp_path / "t")
        there = run_cli(*run, "--split", split, "--force")
        assert (there.code, _but_for_the_earlier_trace(there.err), there.out) == (0, here.err, here.out)
        assert files_under(tmp_path / "t") == expected
        shutil.rmtree(tmp_path / "t")
    text = ("run", model.artifact.directory, "--tokens", "5,20,17", "--max-tokens", "4")
    assert run_cli(*text, "--split", split) == run_cli(*text)
    whole = model.logits((5, 20, 17), positions="all")
    assert model.across(split).logits((5, 20, 17), positions="all").tobytes() == whole.tobytes()


@pytest.mark.contract("SPLIT-NEEDED-1")
def test_each_server_is_sent_the_weights_of_its_layers(
    tiny: CompiledModel, servers: tuple[RpcServer, RpcServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, set[str]] = {}
    weight = RemoteTensors.weight

    def note(self: RemoteTensors, node: Any, rows: Any) -> Any:
        sent.setdefault(str(self._connection.address), set()).add(node.attr_str("tensor"))
        return weight(self, node, rows)

    monkeypatch.setattr(RemoteTensors, "weight", note)
    split = f"0..2@{servers[0].address},2..3@{servers[1].address}"
    tiny.across(split).logits((5, 20, 17))
    first, second = (sent[server.address] for server in servers)
    assert {name.split(".")[1] for name in first if name.startswith("blk.")} == {"0", "1"}
    assert {name for name in first if not name.startswith("blk.")} == {"token_embd.weight"}
    assert {name.split(".")[1] for name in second if name.startswith("blk.")} == {"2"}
    assert {name for name in second if not name.startswith("blk.")} == {"output_norm.weight", "output.weight"}


def test_a_server_whose_layers_no_tap_needs_is_not_asked(tiny: CompiledModel, servers: tuple[RpcServer, RpcServer], tmp_path: Path) -> None:
    there = tiny.across(f"0..1@{servers[0].address},1..@127.0.0.1:1")
    run = there.plan(parse_plan("attn_*", "0..1"), (5, 20, 17), RunOptions())
    with open_engine(there.artifact, there.model, run, None, split=there.split) as engine:
        taps: list[str] = []
        execute(run, engine, lambda _step, _part, node, *_: taps.append(node.name))
    assert len(taps) == len(run.taps) > 3
    result = run_cli("run", tiny.artifact.directory, "--tokens", "5", "--taps", "attn_out", "--layers", "0", "-o", tmp_path / "t",
                     "--split", f"0..1@{servers[0].address},1..@127.0.0.1:1")  # fmt: skip
    assert result.code == 0
    assert "nothing of the layers 1..3 is needed, so 127.0.0.1:1 is not asked" in result.err


@pytest.mark.contract("SPLIT-BITS-1")
def test_workers_leave_what_a_run_here_does(tiny: CompiledModel, tmp_path: Path) -> None:
    run = ("run", tiny.artifact.directory, "--tokens", "5,20,17", "--taps", "all", "--layers", "all", "-o", tmp_path / "t",
           "--max-tokens", "3", "--steps", "0..3", "--prefill-chunk", "2")  # fmt: skip
    here = run_cli(*run)
    expected = files_under(tmp_path / "t")
    there = run_cli(*run, "--split", "0..2,2..", "--force")
    assert (there.code, _but_for_the_earlier_trace(there.err), there.out) == (0, here.err, here.out)
    assert files_under(tmp_path / "t") == expected


@pytest.mark.contract("SPLIT-BITS-1")
def test_jobs_leave_what_a_run_here_does(tiny: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Ray: tests/runtime/test_executor_ray.py."""
    pytest.importorskip("submitit", reason="submitit is optional: aprgraph[slurm]; .ci/run installs it")
    monkeypatch.chdir(tmp_path)
    for run, place in ((tiny, "here"), (tiny.across("0..2,2..", "submitit-local"), "there")):
        run.run("attn_out,lm_head", "all", tokens=(5, 20, 17), directory=tmp_path / place)
    assert files_under(tmp_path / "there") == files_under(tmp_path / "here")


def test_a_router_with_nan_in_a_worker(tmp_path: Path, tiny: CompiledModel) -> None:
    """Token 7 has NaN in its embedding. The error and the trace are those of a run here."""
    model = _model("qwen2moe-f32", tiny)
    table = model.model.file.tensors["token_embd.weight"]
    data = bytearray(model.model.path.read_bytes())
    start = table.offset + 7 * table.row_bytes
    data[start : start + table.row_bytes] = b"\xff" * table.row_bytes
    (tmp_path / "nan.gguf").write_bytes(data)
    broken = CompiledModel(model.artifact, load_model(tmp_path / "nan.gguf"))
    messages = []
    for place, run in (("here", broken), ("there", broken.across("0..1,1..2"))):
        with pytest.raises(NonFiniteError, match="hold a NaN") as caught:
            run.run("all", "0..2", tokens=(11, 7, 90), directory=tmp_path / place)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert files_under(tmp_path / "here") == files_under(tmp_path / "there")


@pytest.mark.contract("SPLIT-LOST-1")
def test_a_worker_that_dies_or_has_not_the_model(tiny: CompiledModel, tmp_path: Path) -> None:
    there = tiny.across("0..2,2..3")
    with pytest.raises(ExecutorError, match=r"^the layers 0..2: worker process \d+ ended in the middle of its work .*; run it again$"):
        there.run("all", "0..3", tokens=(5, 20, 17) * 20, directory=tmp_path / "t", on_entry=lambda _: _kill_children())
    assert (tmp_path / "t" / "trace.incomplete").exists()
    assert not (tmp_path / "t" / "trace.json").exists()
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny.model.path.read_bytes())
    gone = CompiledModel(tiny.artifact, load_model(copy)).across("0..2,2..3")
    copy.unlink()
    with pytest.raises(ExecutorError, match=r"^the layers 0..2: .*copy.gguf"):
        gone.logits((5, 20, 17))
    with pytest.raises(RuntimeError, match="^no more$"):  # what a tap raises ends workers that are in the middle of a pass
        there.run("all", "0..3", tokens=(5, 20, 17), directory=tmp_path / "u", on_entry=_refuse)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def _refuse(_entry: object) -> None:
    raise RuntimeError("no more")


def test_errors(tiny: CompiledModel, model_path: Path, tmp_path: Path) -> None:
    run = ("run", model_path, "--tokens", "5,200,17", "--taps", "all", "-o", tmp_path / "t")
    assert "--split board: expected HOST:PORT or HOST:PORT/KEY" in fails(*run, "--split", "0..9@board").replace("'", "")
    assert "no range has the layers 1 to" in fails(*run, "--split", "0..1@a:1")
    assert "--rpc runs all layers on one server" in fails(*run, "--split", "0..@a:1", "--rpc", "a:1")
    assert "--split runs compiled kernels" in fails(*run, "--split", "0..@a:1", "--target", "reference")
    assert "--executor local: the ranges name the servers that run them" in fails(*run, "--split", "0..@a:1", "--executor", "local")
    assert "--executor is for --split" in fails(*run, "--executor", "local")
    assert "workers of an executor run on CPUs" in fails(*run, "--split", "0..", "--target", "cuda")
    assert "no executor 'lokal' (did you mean 'local'?)" in fails(*run, "--split", "0..", "--executor", "lokal")
    assert "127.0.0.1:1: connection refused, no server is there" in fails(*run, "--split", "0..@127.0.0.1:1")
    assert not (tmp_path / "t").exists()


@pytest.mark.contract("SPLIT-LOST-1")
def test_a_server_that_dies_in_the_middle(tiny: CompiledModel, servers: tuple[RpcServer, RpcServer], tmp_path: Path) -> None:
    """The last test with these servers. The other one takes the next client."""
    one, two = servers
    result = run_python(
        _KILL_THE_SECOND, "run", tiny.artifact.directory, "--tokens", "5,200,17", "--taps", "all", "--layers", "all", "-o", "t",
        "--split", f"0..2@{one.address},2..@{two.address}", cwd=tmp_path, env={"SERVER": str(two.process.pid), "ADDRESS": two.address},
    )  # fmt: skip
    assert re.match(rf"{two.address}: the connection was lost while fetching layer 2 [a-z_]+ \(.*\); ", error_of(result))
    assert (tmp_path / "t" / "trace.incomplete").exists()
    assert not (tmp_path / "t" / "trace.json").exists()
    assert tiny.on(one.address).logits((5,)).tobytes() == tiny.logits((5,)).tobytes()
