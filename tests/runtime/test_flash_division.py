"""How llama.cpp took positions and keys apart, where nobody says it: found, or said not to be known, and nothing is called wrong for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph import Trace
from aprgraph.graph.arithmetics import parse_arithmetic
from aprgraph.runtime.blame import flash_division
from aprgraph.runtime.blame.auditor import AuditOptions, Auditor
from aprgraph.runtime.blame.chosen_arithmetic import ChosenArithmetic
from aprgraph.runtime.blame.local_errors import LocalState
from aprgraph.runtime.place import Place
from tests.support.blame import spoil
from tests.support.cli import run_cli

#: A prompt that three more tokens make longer than 256, and one whose last pass is short where passes are of 64.
MANY_KEYS, LONG = 255, 80
STAGES = "qkv_matmul,q_post_rope,k_post_rope,attention"


@pytest.fixture
def traced(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Path, Trace]]:
    """``traced(arithmetic, length, steps)``: the model, and a run of it that does not say how many threads or what passes there were."""
    path = tiny_model(format="Q4_1", layers=2, hidden=64, ffn=64, vocabulary=288, context=512)

    def trace(arithmetic: str, length: int, steps: int = 1) -> tuple[Path, Trace]:
        compiled = aprgraph.load(path).compile("reference", tmp_path / "m.aprg")
        tokens = list(np.random.default_rng(3).integers(3, 280, length))
        run = compiled.run(
            STAGES, "0..1", tokens=tokens, max_tokens=steps, steps=f"0..{steps}", directory=tmp_path / "theirs", arithmetic=arithmetic
        )
        manifest = tmp_path / "theirs" / "trace.json"
        own = parse_arithmetic(arithmetic)
        said = replace(own, threads=None, ubatch=None)
        manifest.write_text(manifest.read_text().replace(f'"engine_arithmetic": "{own.text}"', f'"engine_arithmetic": "{said.text}"'))
        return path, run

    return trace


@pytest.mark.contract("ARITHMETIC-DIVISION-1")
def test_the_number_of_threads_is_found(traced: Callable[..., tuple[Path, Trace]]) -> None:
    path, trace = traced("ggml-avx2,threads=3", MANY_KEYS, 4)
    found = aprgraph.audit(trace.directory, path)
    assert found.exit_code == 0, found.sentence
    assert all(local.state is LocalState.RIGHT for local in found.locals)
    assert "threads=3 of theirs's arithmetic is what explains its flash attention: nothing in it says how many there were" in found.notes
    for threads in (2, 3):  # one who names a number is held to it
        auditor = Auditor(trace, aprgraph.load(path).model, AuditOptions(arithmetic=ChosenArithmetic(f"ggml-avx2,threads={threads}")))
        assert auditor.explains_some([Place(3, 0, "attention")]) is (threads == 3)


@pytest.mark.contract("ARITHMETIC-DIVISION-1")
def test_the_passes_of_a_prompt_are_found(traced: Callable[..., tuple[Path, Trace]]) -> None:
    path, trace = traced("ggml-avx2,ubatch=64", LONG)
    printed = run_cli("audit", trace.directory, "--model", path)
    assert "theirs: right" in printed.out
    assert "is held to the arithmetic ggml-avx2,cache=f16,flash=on,ubatch=64 " in printed.out


@pytest.mark.contract("ARITHMETIC-DIVISION-1")
def test_a_division_that_is_not_tried_is_not_known(traced: Callable[..., tuple[Path, Trace]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the passes that it changes: their attention is neither right nor wrong, and all else is right."""
    path, trace = traced("ggml-avx2,threads=3", MANY_KEYS, 4)
    monkeypatch.setattr(flash_division, "_THREADS", 2)
    found = aprgraph.audit(trace.directory, path)
    unknown = [local for local in found.locals if local.state is LocalState.UNKNOWN]
    assert {(local.key.stage, local.key.step) for local in unknown} == {("attention", 2), ("attention", 3)}
    assert not found.wrong
    assert unknown[0].reason == (
        "with more than 256 keys llama.cpp divides those of one position among its threads, and no number of threads from 1 to 2 explains "
        "what was recorded; name it with arithmetic='ggml-avx2,cache=f16,flash=on,threads=N'"
    )


@pytest.mark.sweep
@pytest.mark.contract("ARITHMETIC-DIVISION-1")
def test_what_no_division_gives_is_wrong(traced: Callable[..., tuple[Path, Trace]]) -> None:
    """A head that is off by a hundredth, at one step."""
    path, trace = traced("ggml-avx2,threads=3", MANY_KEYS, 4)
    spoil(trace, "attention", 0, lambda values: values * np.where(np.arange(64) < 16, 1.01, 1), step=3)
    found = aprgraph.audit(trace.directory, path)
    assert [local.label for local in found.wrong] == ["step 3 layer 0 attention"]


@pytest.mark.contract("ARITHMETIC-DIVISION-1")
@pytest.mark.parametrize(("size", "state"), [(1e-3, LocalState.UNKNOWN), pytest.param(0.1, LocalState.WRONG, marks=pytest.mark.sweep)])
def test_passes_that_nothing_explains(traced: Callable[..., tuple[Path, Trace]], size: float, state: LocalState) -> None:
    """Noise as small as that of float16 may be another division, a larger one is none."""
    path, trace = traced("ggml-avx2", LONG)
    rng = np.random.default_rng(4)
    spoil(trace, "attention", 0, lambda values: values * (1 + size * rng.standard_normal(values.shape)))
    found = aprgraph.audit(trace.directory, path)
    assert {local.state for local in found.locals if local.key.stage == "attention"} == {state}
    assert bool(found.wrong) is (state is LocalState.WRONG)


@pytest.mark.contract("ARITHMETIC-DIVISION-1")
def test_in_what_order_keys_lie_beyond_a_window_is_not_known(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """Of two layers the first has a window. Noise as of another order is open there, and an error in the other."""
    path = tiny_model(family="gemma2", format="Q4_1", sliding_window=8)
    compiled = aprgraph.load(path).compile("reference", tmp_path / "m.aprg")
    windows = {node.layer: node.attrs["window"] for node in aprgraph.load(path).graph if "window" in node.attrs}
    trace = compiled.run(STAGES, "0..2", tokens=range(3, 23), directory=tmp_path / "t", arithmetic="ggml-avx2")
    rng = np.random.default_rng(5)
    for layer in windows:
        spoil(trace, "attention", layer, lambda values: values * (1 + 1e-3 * rng.standard_normal(values.shape)))
    found = aprgraph.audit(trace.directory, path)
    states = {layer: found.by_key[0, layer, "attention"].state for layer in windows}
    assert states == {layer: LocalState.UNKNOWN if window else LocalState.WRONG for layer, window in windows.items()}
    assert {bool(window) for window in windows.values()} == {True, False}
    reason = next(local.reason for local in found.locals if local.state is LocalState.UNKNOWN)
    assert reason is not None
    assert reason.startswith("beyond a window of 8 llama.cpp puts new keys")
