"""Targets of a matrix that need more than this machine's processor: GPUs, and TVM RPC servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.runtime.executors import open_executor
from aprgraph.sweep.findings import find
from aprgraph.sweep.head import run_sweep
from aprgraph.sweep.matrix import read_matrix
from aprgraph.sweep.plan import plan_sweep
from aprgraph.sweep.store import Store
from tests.support.cli import files_under, run_cli
from tests.support.cuda_emulator import host_compiler
from tests.support.cuda_runs import command, run_emulated
from tests.support.rpc_server import rpc_server

Tiny = Callable[..., Path]


def write_matrix(folder: Path, model: Path, targets: list[str], prompts: int = 1) -> Path:
    """A matrix of few taps, each target beside the first."""
    shutil.copyfile(model, folder / "m.gguf")
    matrix = folder / "matrix.toml"
    texts = [{"tokens": [5, 6, 7 + number]} for number in range(prompts)]
    lists = ", ".join(f"{{ tokens = {text['tokens']} }}" for text in texts)
    matrix.write_text(
        f"models = ['m.gguf']\ntargets = {targets}\nprompts = [{lists}]\ntaps = 'attn_out,lm_head'\n[[compare]]\nalong = 'targets'\n"
    )
    return matrix


@pytest.mark.contract("SWEEP-TARGET-1")
@pytest.mark.skipif(host_compiler() is None, reason="no g++ 12 or later, with which kernels are compiled for the CPU")
def test_a_gpu_by_number(tiny_model: Tiny, tmp_path: Path) -> None:
    write_matrix(tmp_path, tiny_model(), ["llvm", "cuda:0", "cuda:7"])
    (result,) = run_emulated([command("sweep", "matrix.toml", "--workers", 1, "--json")], tmp_path)
    assert result.code == 2
    assert [(cell["target"], cell["along"], cell["state"]) for cell in json.loads(result.out)["cells"]] == [
        ("llvm", None, "RIGHT"),
        ("cuda:0", None, "RIGHT"),
        ("cuda:7", None, "FAILED"),
        ("cuda:0", "targets", "ALIKE"),
        ("cuda:7", "targets", "FAILED"),
    ]
    assert result.err == "note: no cell: --target cuda:7: no such GPU; there is GPU 0 (emulated CUDA device)\n"


@pytest.mark.contract("SWEEP-TARGET-1")
def test_without_a_gpu_there_is_one_reason_and_all_else_is_computed(tiny_model: Tiny, tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path, tiny_model(), ["llvm", "reference", "cuda:999"], prompts=2)
    result = run_cli("sweep", matrix, "--workers", 1)
    assert (result.code, result.out.splitlines()[0]) == (2, "Nothing is off in 6 cells; 4 cells are not there.")
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith(
        ("note: no cell: no NVIDIA driver here", "note: no cell: no NVIDIA GPU here", "note: no cell: --target cuda:999")
    )


@pytest.mark.contract("SWEEP-TARGET-1")
def test_a_server_serves_one_worker_at_a_time_and_what_it_computes_is_the_same(tiny_model: Tiny, tmp_path: Path) -> None:
    with rpc_server(tmp_path / "log", runtime_alone=True) as server, open_executor("local", 2, threads=1, attempts=1) as executor:
        plan = plan_sweep(read_matrix(write_matrix(tmp_path, tiny_model(), ["llvm", f"rpc:{server.address}"], prompts=4)))
        store = Store(plan.matrix.store)
        assert run_sweep(plan, store, executor).failures == {}
        assert find(plan, store).counts == {"RIGHT": 8, "ALIKE": 4}
        manifests = [files_under(store.place(run.cell.key))["trace.json"] for run in plan.runs]
        assert manifests[::2] == manifests[1::2]
    # It is gone: that is said of its cells, and the others are computed.
    result = run_cli("sweep", write_matrix(tmp_path, tiny_model(), ["llvm", f"rpc:{server.address}"], prompts=5), "--attempts", 1)
    assert result.code == 2
    assert result.out.startswith("Nothing is off in 13 cells; 2 cells are not there.\n")
    assert result.err.startswith(f"note: no cell: {server.address}: connection refused, no server is there; ")
