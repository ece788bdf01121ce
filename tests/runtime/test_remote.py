"""Runs on a TVM RPC server: the same bits, only what is needed, and one error where it fails."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.api import CompiledModel, LoadedModel, RunOptions, load
from aprgraph.graph.calling_convention import RESIDENT_WEIGHTS
from aprgraph.graph.errors import NonFiniteError, RemoteError
from aprgraph.graph.machine_code import MachineCode
from aprgraph.graph.model import load_model
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runs.execute import execute
from aprgraph.runs.open_engine import open_engine
from aprgraph.runtime.kernel_values import weight_array
from aprgraph.runtime.remote import address as remote_address
from aprgraph.runtime.remote import connection as remote_connection
from aprgraph.runtime.remote.address import parse_remote
from aprgraph.runtime.remote.connection import Connection
from aprgraph.runtime.remote.engine import RemoteEngine
from aprgraph.runtime.remote.tensors import RemoteTensors
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import files_under
from tests.support.compiled import LAYERS, SHARED, compiled, shared_model
from tests.support.fp8_checkpoint import fp8_checkpoint
from tests.support.golden import golden_models
from tests.support.rpc_server import RpcServer, rpc_server

TOKENS = (11, 7, 90, 3, 7, 0, 45, 9)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcServer]:
    with rpc_server(tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcServer]:
    """One with a key, where there is IPv6 on such an address, and without the compiler. The last test crashes it."""
    with rpc_server(tmp_path_factory.mktemp("keyed") / "log", host=_loopback(), key="secret", runtime_alone=True) as server:
        yield server


def _loopback() -> str:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return "::1"
    except OSError:
        return "127.0.0.1"


@pytest.fixture(scope="module")
def models(tiny_model: Callable[..., Path]) -> dict[str, CompiledModel]:
    """The one that most tests have, and one with experts beside a shared one."""
    experts = next(golden.path for golden in golden_models() if golden.name == "qwen2moe-f32")
    return {"llama": compiled(shared_model(tiny_model)), "qwen2moe": compiled(experts)}


@pytest.fixture(scope="module")
def tiny(models: dict[str, CompiledModel]) -> CompiledModel:
    return models["llama"]


@pytest.mark.contract("REMOTE-BITS-1")
@pytest.mark.parametrize("name", ["llama", "qwen2moe"])
def test_traces_are_those_of_a_run_here(models: dict[str, CompiledModel], name: str, server: RpcServer, tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "one pass": {},
        "all positions": {"positions": "all", "threads": 1},
        "parts and steps": {"prefill_chunk": 3, "max_tokens": 4, "steps": "0..3"},
        "statistics": {"prefill_chunk": 4, "stats_only": True},
    }
    for kind, options in kinds.items():
        found = []
        for model in (models[name], models[name].on(server.address)):
            place = tmp_path / kind / str(len(found))
            model.run("all", "0..2", tokens=TOKENS, directory=place, **options)
            found.append(files_under(place))
        assert found[0] == found[1], kind
        assert ("lm_head.bin" in found[0]) == (kind != "statistics")


@pytest.mark.contract("REMOTE-BITS-1")
def test_texts_and_logits_are_those_of_a_run_here(models: dict[str, CompiledModel], server: RpcServer) -> None:
    for model in models.values():
        there = model.on(server.address)
        assert there.generate(6, tokens=TOKENS) == model.generate(6, tokens=TOKENS)
        assert there.logits(TOKENS, positions="all").tobytes() == model.logits(TOKENS, positions="all").tobytes()


@pytest.mark.contract("REMOTE-BITS-1")
def test_large_tensors_travel_in_pieces(
    models: dict[str, CompiledModel], server: RpcServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_connection, "_PIECE", 3000)
    monkeypatch.setattr("aprgraph.runtime.remote.engine._CHUNKS_AT_ONCE", 1)
    for name in ("llama", "qwen2moe"):
        for model, place in ((models[name], "here"), (models[name].on(server.address), "there")):
            model.run("all", "0..2", tokens=[*range(32)], directory=tmp_path / name / place, prefill_chunk=30)
        assert files_under(tmp_path / name / "here") == files_under(tmp_path / name / "there")


@pytest.mark.contract("REMOTE-NEEDED-1")
def test_only_what_the_plan_needs_is_sent(tiny: CompiledModel, tiny_model: Callable[..., Path], server: RpcServer) -> None:
    def sent(model: LoadedModel, taps: str, options: RunOptions) -> tuple[set[str], dict[str, set[int] | None]]:
        run = model.plan(parse_plan(taps, "0..1"), TOKENS, options)
        with open_engine(tiny.artifact, model.model, run, None, remote=parse_remote(server.address)) as engine:
            assert isinstance(engine, RemoteEngine)
            execute(run, engine, lambda *_: None)
            needed = {node.name for graph in run.graphs() for node in graph.with_op("weight")}
            return needed, {name: weight.rows for name, weight in engine.tensors.weights.items()}

    untied, tied = LoadedModel(tiny.model), load(tiny_model(**SHARED, tied=True))  # of the same kernels
    needed, found = sent(untied, "qkv_matmul", RunOptions(prefill_chunk=5))
    assert 3 < len(needed) < 10
    assert found.keys() == needed
    assert [rows for rows in found.values() if rows is not None] == [set(TOKENS)]  # of the embedding table
    assert sent(tied, "lm_head", RunOptions(prefill_chunk=5))[1]["token_embd.weight"] is None  # it is also the output's weight
    assert sent(untied, "qkv_matmul", RunOptions())[1] == {}  # in one pass a weight is dropped after its last use


def test_a_weight_that_no_kernel_decodes_is_sent_decoded(tiny_model: Callable[..., Path], server: RpcServer) -> None:
    model = load(tiny_model(layers=1, formats={"token_embd.weight": "TQ2_0"}))
    node, connection = model.graph["token_embd.weight"], Connection(parse_remote(server.address))
    try:
        tensors = RemoteTensors(connection, model.model, 1)
        (tensor,) = tensors.weight(node, np.int64([3, 5]))
        found = connection.get(tensors.weights[node.name].space, tensor.shape, tensor.dtype)
    finally:
        connection.close()
    assert found.dtype == np.float32
    assert found.tobytes() == weight_array(model.model, node).tobytes()


@pytest.mark.contract("REMOTE-NEEDED-1")
def test_only_experts_that_were_chosen_are_sent(models: dict[str, CompiledModel], server: RpcServer, tmp_path: Path) -> None:
    model = models["qwen2moe"]
    run = model.plan(parse_plan("moe_router_indices,moe_ffn_out", "0..1"), TOKENS[:2], RunOptions(prefill_chunk=1))
    chosen: set[int] = set()
    with open_engine(model.artifact, model.model, run, None, remote=parse_remote(server.address)) as engine:
        assert isinstance(engine, RemoteEngine)
        execute(run, engine, lambda _step, _part, node, value, _: chosen.update(value.flat) if node.stage == "moe_router_indices" else None)
        rows = {str(run.graph[name].attrs["tensor"]): weight.rows for name, weight in engine.tensors.weights.items()}
    assert len(chosen) > 1
    assert [rows[f"blk.0.ffn_{part}_exps.weight"] for part in ("gate", "up", "down")] == [chosen] * 3


@pytest.mark.contract("FILE-HF-7")
def test_weights_in_pieces_are_sent_with_their_scales(server: RpcServer, tmp_path: Path) -> None:
    path, _ = fp8_checkpoint(tmp_path)
    here = load(path).compile(directory=tmp_path / "x.aprg")
    there = here.on(server.address)
    assert there.logits(TOKENS[:2]).tobytes() == here.logits(TOKENS[:2]).tobytes()


def test_pages_of_a_large_model_are_given_back(tiny: CompiledModel, server: RpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RESIDENT_WEIGHTS > 1 << 20
    monkeypatch.setattr("aprgraph.runtime.remote.tensors.RESIDENT_WEIGHTS", 10_000)
    model, released = load_model(tiny.model.path), []
    monkeypatch.setattr(model.file, "release", lambda release=model.file.release: released.append(release()))
    there = CompiledModel(tiny.artifact, model).on(server.address)
    assert there.logits(TOKENS).tobytes() == tiny.logits(TOKENS).tobytes()
    assert len(released) > LAYERS


def test_memory_on_the_server_does_not_grow_with_the_text(tiny: CompiledModel, server: RpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    allocated: list[int] = []
    allocate = Connection.allocate
    monkeypatch.setattr(Connection, "allocate", lambda self, nbytes: (allocated.append(nbytes), allocate(self, nbytes))[1])
    run = tiny.plan(parse_plan("all", "0..1"), TOKENS, RunOptions(max_tokens=24, steps=range(24)))
    with open_engine(tiny.artifact, tiny.model, run, None, remote=parse_remote(server.address)) as engine:
        counts: list[int] = []
        execute(run, engine, lambda *_: None, on_token=lambda _: counts.append(len(allocated)))
    assert counts[1] == counts[-1]


def test_a_router_with_nan(models: dict[str, CompiledModel], server: RpcServer, tmp_path: Path) -> None:
    """Token 7 has NaN in its embedding. The error and the trace are those of a run here."""
    model = models["qwen2moe"]
    table = model.model.file.tensors["token_embd.weight"]
    data = bytearray(model.model.path.read_bytes())
    start = table.offset + 7 * table.row_bytes
    data[start : start + table.row_bytes] = b"\xff" * table.row_bytes
    (tmp_path / "nan.gguf").write_bytes(data)
    broken = CompiledModel(model.artifact, load_model(tmp_path / "nan.gguf"))
    messages = []
    for place, run in (("here", broken), ("there", broken.on(server.address))):
        with pytest.raises(NonFiniteError, match="hold a NaN") as caught:
            run.run("all", "0..2", tokens=TOKENS, directory=tmp_path / place, prefill_chunk=3)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert files_under(tmp_path / "here") == files_under(tmp_path / "there")
    assert np.isnan(Trace.open(tmp_path / "there").tensor("moe_router_indices", 0)[1]).all()


def test_what_a_tap_raises_comes_through_and_ends_the_session(tiny: CompiledModel, server: RpcServer, tmp_path: Path) -> None:
    def refuse(_entry: object) -> None:
        raise RuntimeError("no more")

    there = tiny.on(server.address)
    for _ in range(2):  # the server serves one session at a time: the second run finds the first one's ended
        with pytest.raises(RuntimeError, match=r"^no more$"):
            there.run(tokens=TOKENS, directory=tmp_path / "t", on_entry=refuse)
    assert (tmp_path / "t" / "trace.incomplete").exists()
    assert there.logits(TOKENS).tobytes() == tiny.logits(TOKENS).tobytes()


def test_a_server_that_is_busy(tiny: CompiledModel, server: RpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(parse_remote(server.address))
    monkeypatch.setattr(remote_address, "CONNECT_TIMEOUT", 0.5)
    with pytest.raises(RemoteError, match="no answer within 0.5 s; a TVM RPC server serves one client at a time"):
        tiny.on(server.address).logits(TOKENS)
    connection.close()
    connection.close()
    monkeypatch.undo()
    assert tiny.on(server.address).logits(TOKENS).tobytes() == tiny.logits(TOKENS).tobytes()


def test_a_server_without_room_and_what_it_cannot_load(server: RpcServer) -> None:
    connection = Connection(parse_remote(server.address))
    try:
        with (
            pytest.raises(RemoteError, match=r"^127.*: the server ran out of memory while sending w; trace fewer positions or layers$"),
            connection.doing("sending w"),
        ):
            connection.allocate(1 << 50)
        with pytest.raises(RemoteError, match="the server failed while loading the kernels: .*file too short.*; expected one of TVM 0"):
            connection.load(MachineCode(b"no code", Path("kernels.so")))
    finally:
        connection.close()


def test_a_processor_that_lacks_something(server: RpcServer) -> None:
    connection = Connection(parse_remote(server.address))
    try:
        connection.check_cpu("x86-64-v1", "x86_64", ("pni", "sse4_2", "no such flag"))
        with pytest.raises(
            RemoteError, match=r"built for x, but the server's processor lacks xop; compile for it with `LoadedModel.compile\(cpu=…\)`"
        ):
            connection.check_cpu("x", "x86_64", ("pni", "xop"))  # an instruction set of processors that are no longer made
        with pytest.raises(RemoteError, match="the kernels are built for aarch64, but the server is x86_64; compile for it with"):
            connection.check_cpu("aarch64", "aarch64", ("fp", "asimd"))
    finally:
        connection.close()


def test_a_key_and_an_ipv6_address(tiny: CompiledModel, keyed: RpcServer) -> None:
    place = keyed.address.removesuffix("/secret")
    with pytest.raises(
        RemoteError, match=r"the server has a key; give rpc='.*/KEY', with the KEY it was started with \(its own option --key\)"
    ):
        tiny.on(place).logits(TOKENS)
    with pytest.raises(RemoteError, match=r"the server has another key than 'Secret'"):
        tiny.on(f"{place}/Secret").logits(TOKENS)
    assert tiny.on(keyed.address).logits(TOKENS).tobytes() == tiny.logits(TOKENS).tobytes()


def test_a_session_that_crashes(tiny: CompiledModel, keyed: RpcServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without the compiler cannot tell its processor; on an instruction that it lacks the session ends, and the server with it."""
    there = tiny.on(keyed.address)
    with pytest.raises(RemoteError, match=r"the connection was lost while computing layer 0 [a-z_]+ \(.+\); where the server has crashed"):
        there.run("all", "0..2", tokens=TOKENS, directory=tmp_path / "t", on_entry=lambda _: keyed.crash_session())
    monkeypatch.setattr(remote_address, "CONNECT_TIMEOUT", 0.5)
    with pytest.raises(RemoteError, match="no answer within 0.5 s; .* start the server again|connection refused"):
        there.logits(TOKENS)
