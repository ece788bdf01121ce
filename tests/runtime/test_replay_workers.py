"""Replays by workers: what they compute is judged as what one process computes, to the last bit."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.graph.errors import ExecutorError
from aprgraph.graph.families import FAMILIES, Family
from aprgraph.graph.model import load_model
from aprgraph.graph.ops import has_state, traits_of
from aprgraph.graph.passes.prune import Prune, part_of
from aprgraph.graph.passes.replay_recorded import ReplayRecorded
from aprgraph.runtime.blame import audit, replay_workers
from aprgraph.runtime.blame.replay_workers import parts_of_replay
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.comparison.with_blame import with_blame
from aprgraph.runtime.diff import diff
from aprgraph.runtime.executors.workers import WorkersExecutor
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import spoil, traced
from tests.support.cli import fails, run_cli
from tests.support.graphs import ops_of
from tests.support.traces import noisy

Tiny = Callable[..., Path]


class _Here:
    """A worker in this process that gets and gives what a process would: copies."""

    def __init__(self, lane: int) -> None:
        self.place = f"lane {lane}"

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        function, arguments, keywords = pickle.loads(pickle.dumps((function, arguments, keywords)))
        return pickle.loads(pickle.dumps(function(*arguments, **keywords)))

    def close(self) -> None:
        """Nothing to end."""

    kill = close


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkersExecutor]:
    """One for parts of few weights, so that tiny models have several."""
    monkeypatch.setattr(replay_workers, "_PART", 1000)
    with WorkersExecutor(_Here, 2) as made:
        yield made


def assert_same(trace: Trace, model: Path, executor: WorkersExecutor, exit_code: int) -> None:
    alone, together = (audit(trace, load_model(model), executor=one) for one in (None, executor))
    assert together.to_json() == alone.to_json()
    assert alone.exit_code == exit_code


@pytest.mark.contract("BLAME-WORKERS-1")
@pytest.mark.each_choice(of=ops_of, least=1)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_trace(family: str, tiny_model: Tiny, tmp_path: Path, executor: WorkersExecutor) -> None:
    model = tiny_model(family=family, format="Q8_0")
    generation = {"max_tokens": 3, "steps": "0..3"} if FAMILIES[family].causal is Family.causal else {}
    assert_same(traced(tmp_path / "t", model, **generation), model, executor, 0)


@pytest.mark.contract("BLAME-WORKERS-1")
@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        ("attn_norm", lambda values: noisy(values, 1e-3)),
        ("attn_softmax", lambda values: values * 2),
        ("attn_scores", lambda values: values * np.float32(3)),
        ("k_post_rope", lambda values: values[..., ::-1].copy()),
        (
            "q_post_rope",
            lambda values: np.ascontiguousarray(values.reshape(values.shape[0], -1, 2).transpose(0, 2, 1)).reshape(values.shape),
        ),
    ],
)
def test_what_is_wrong_or_was_recorded_otherwise(
    stage: str, fault: Callable[[Any], Any], tiny_model: Tiny, tmp_path: Path, executor: WorkersExecutor
) -> None:
    """How one tensor is read decides what the next is computed from, which may have been begun before."""
    model = tiny_model(qkv_bias=False)
    trace = traced(tmp_path / "t", model, max_tokens=2, steps="0..2")
    spoil(trace, stage, 0, fault)
    found = audit(trace, load_model(model))
    assert_same(trace, model, executor, found.exit_code)


@pytest.mark.contract("BLAME-WORKERS-1")
@pytest.mark.parametrize("taps", ["attn_out,lm_head", "post_ffn_residual,moe_ffn_out", "lm_head"])
def test_few_taps(taps: str, tiny_model: Tiny, tmp_path: Path, executor: WorkersExecutor) -> None:
    model = tiny_model(family="qwen3moe", layers=3)
    assert_same(traced(tmp_path / "t", model, taps=taps, layers="0..3", max_tokens=2, steps="0..2"), model, executor, 0)


def test_a_tensor_is_computed_again_when_what_it_reads_is_read_otherwise(
    tiny_model: Tiny, tmp_path: Path, executor: WorkersExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores before they were scaled: what is computed from them follows if they are read so."""
    model = tiny_model(qkv_bias=False)
    trace = traced(tmp_path / "t", model)
    spoil(trace, "attn_scores", 1, lambda values: values * np.float32(4))
    begun: list[tuple[str, ...]] = []
    begin = replay_workers._Walk._begin
    monkeypatch.setattr(
        replay_workers._Walk, "_begin", lambda self, part: (begun.append(tuple(node.name for node in part)), begin(self, part))[1]
    )
    found = audit(trace, load_model(model), executor=executor)
    assert [local.label for local in found.locals if local.reading is not None] == ["layer 1 attn_scores"]
    assert [part for part in set(begun) if begun.count(part) > 1]
    assert found.to_json() == audit(trace, load_model(model)).to_json()


def test_parts_begin_at_what_was_recorded(tiny_model: Tiny) -> None:
    graph = ReplayedModel(load_model(tiny_model(layers=3))).graph_of("last", 8)
    staged = frozenset(node.name for node in graph.staged())
    residuals = frozenset(name for name in staged if name.endswith("post_ffn_residual"))
    every = Prune()(ReplayRecorded(staged, staged)(graph))
    parts = parts_of_replay(every, 1)
    assert len(parts) > 20
    assert [node.name for part in parts for node in part] == [node.name for node in every if traits_of(node).role.name != "WEIGHT"]
    assert len(parts_of_replay(every, 1 << 40)) == 1
    by_layer = Prune()(ReplayRecorded(residuals, residuals | {"lm_head"})(graph))
    whole = Prune()(ReplayRecorded(frozenset(), frozenset({"lm_head"}))(graph))
    for replay in (every, by_layer, whole):
        ends = [[node.name for node in part] for part in parts_of_replay(replay, 1)]
        products = [node.name for names in ends for node in part_of(replay, names) if traits_of(node).is_matmul or has_state(node)]
        assert len(products) == len(set(products)) > 3
    assert len(parts_of_replay(by_layer, 1)) > 3


@pytest.mark.contract("BLAME-WORKERS-1")
def test_two_sides(tiny_model: Tiny, tmp_path: Path, executor: WorkersExecutor) -> None:
    path = tiny_model(qkv_bias=False)
    a, b = traced(tmp_path / "a", path), traced(tmp_path / "b", path)
    spoil(b, "ffn_up", 1, lambda values: noisy(values, 1e-2))
    documents = []
    for one in (None, executor):
        model = ReplayedModel(load_model(path))
        found = with_blame(Comparison.of(diff(a, b)), a, b, model, executor=one)
        documents.append(found.to_json())
    assert documents[0] == documents[1]
    assert documents[0]["blame"]["counts"].get("B WRONG")


@pytest.mark.contract("BLAME-WORKERS-1")
def test_processes_of_the_command_line(tiny_model: Tiny, tmp_path: Path) -> None:
    """And a model that has gone, or has changed, is one error."""
    path = tiny_model(layers=2)
    traced(tmp_path / "a", path)
    b = traced(tmp_path / "b", path)
    spoil(b, "ffn_up", 1, lambda values: noisy(values, 1e-2))
    alone = run_cli("diff", tmp_path / "a", tmp_path / "b", "--model", path, "--json")
    assert run_cli("diff", tmp_path / "a", tmp_path / "b", "--model", path, "--json", "--workers", "2") == alone
    assert alone.code == 1
    assert run_cli("audit", b.directory, "--model", path, "--quiet", "--executor", "local").code == 1
    assert "no executor 'lokal' (did you mean 'local'?)" in fails("audit", b.directory, "--model", path, "--executor", "lokal")
    assert "--executor is for the replay of a model" in fails("diff", b.directory, b.directory, "--executor", "local")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())
    model = load_model(copy)
    copy.unlink()
    with WorkersExecutor(_Here, 1, attempts=2) as one, pytest.raises(ExecutorError, match=r"given up after 2 attempts: .*copy.gguf"):
        audit(b, model, executor=one)
