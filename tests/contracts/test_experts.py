"""Experts that were not chosen are not read; a router that can choose nothing says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.api import CompiledModel, LoadedModel
from aprgraph.graph.errors import NonFiniteError
from aprgraph.graph.model import load_model
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import error_of, files_under, run_cli

TOKENS = (5, 200, 17, 5, 44)


@pytest.fixture(scope="module")
def model_path(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(family="qwen3moe", layers=2, experts=16, experts_used=2)


@pytest.fixture(scope="module")
def compiled(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    return aprgraph.load(model_path).compile(directory=tmp_path_factory.mktemp("compiled") / "model.aprg")


def overwritten(source: Path, target: Path, tensor: str, rows: slice) -> Path:
    """A copy of an F32 model with some rows of the first dimension of a tensor NaN."""
    info = load_model(source).file.tensors[tensor]
    data = bytearray(source.read_bytes())
    values = np.frombuffer(data, np.float32, info.nbytes // 4, info.offset).reshape(info.dims)
    values[rows] = np.nan
    target.write_bytes(data)
    return target


@pytest.mark.contract("EXPERTS-READ-1")
def test_experts_that_nobody_chose_are_not_read(compiled: CompiledModel, model_path: Path, tmp_path: Path) -> None:
    trace = compiled.run("all", "0..2", tokens=TOKENS, directory=tmp_path / "before")
    chosen = [{int(expert) for expert in trace.tensor("moe_router_indices", layer).flat} for layer in range(2)]
    assert all(1 < len(experts) < 16 for experts in chosen)
    path = model_path
    for layer in range(2):
        for part in ("gate", "up", "down"):
            for expert in set(range(16)) - chosen[layer]:
                path = overwritten(path, tmp_path / "nan.gguf", f"blk.{layer}.ffn_{part}_exps.weight", slice(expert, expert + 1))

    def run(path: Path, name: str) -> dict[str, bytes]:
        CompiledModel(compiled.artifact, load_model(path)).run("all", "0..2", tokens=TOKENS, directory=tmp_path / name)
        return {name: raw for name, raw in files_under(tmp_path / name).items() if name != "trace.json"}

    before = {name: raw for name, raw in files_under(tmp_path / "before").items() if name != "trace.json"}
    assert run(path, "after") == before
    one = min(chosen[1])
    broken = run(overwritten(path, tmp_path / "broken.gguf", "blk.1.ffn_up_exps.weight", slice(one, one + 1)), "broken")
    assert {name for name in before if broken[name] != before[name]} >= {"layer-1/moe_expert_up.bin", "layer-1/moe_ffn_out.bin"}


@pytest.fixture(scope="module")
def with_nan(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Token 17 has a NaN in its embedding, so at position 2, and where later ones attend to it, nothing can be chosen."""
    return aprgraph.load(overwritten(model_path, tmp_path_factory.mktemp("nan") / "nan.gguf", "token_embd.weight", slice(17, 18)))


@pytest.mark.contract("EXPERTS-NAN-1")
@pytest.mark.parametrize("target", ["llvm", "reference"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_router_with_nan(with_nan: LoadedModel, target: str, chunk: int | None, tmp_path: Path) -> None:
    compiled = with_nan.compile(target, tmp_path / "m.aprg")
    with pytest.raises(NonFiniteError, match=r"^layer 0 moe_router_logits: the router's scores at position 2 hold a NaN"):
        compiled.run("all", "0..1", tokens=TOKENS[:4], directory=tmp_path / "t", prefill_chunk=chunk)
    trace = Trace.open(tmp_path / "t")
    assert np.isnan(trace.tensor("moe_router_indices", 0)).all(axis=1).tolist() == [False, False, True, True]
    assert np.isnan(trace.tensor("moe_ffn_out", 0)).all(axis=1).tolist() == [False, False, True, True]


@pytest.mark.contract("EXPERTS-NAN-1")
def test_a_router_with_nan_on_the_command_line(with_nan: LoadedModel, tmp_path: Path) -> None:
    result = run_cli("run", with_nan.model.path, "--tokens", "5,200,17", "--target", "reference")
    assert error_of(result).startswith(
        "layer 0 moe_router_logits: the router's scores at position 2 hold a NaN, so no expert can be chosen"
    )


def test_logits_that_are_nan_choose_no_token(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = overwritten(tiny_model(layers=1, tied=False), tmp_path / "nan.gguf", "output.weight", slice(7, 8))
    compiled = aprgraph.load(path).compile("reference", tmp_path / "m.aprg")
    with pytest.raises(NonFiniteError, match=r"^lm_head of step 0: 1 of 288 logits are NaN, so no token can be chosen"):
        compiled.run("all", "0..1", tokens=[1, 2], directory=tmp_path / "t", max_tokens=3)
    assert np.isnan(Trace.open(tmp_path / "t").tensor("lm_head")).sum() == 1
