"""A prompt in one pass, in parts, and token by token: the same bits, in every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.api import CompiledModel
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import files_under

TOKENS = (11, 7, 200, 3, 7, 0, 287, 45, 9)
LAYERS = 2
GENERATED = 6

#: A sliding window that the prompt outgrows, experts beside a shared one, and neither.
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"format": "Q4_1", "formats": {"ffn_down.weight": "Q8_0"}},
    "gemma3": {"family": "gemma3", "format": "Q8_0", "sliding_window": 4},
    "qwen2moe": {"family": "qwen2moe", "format": "Q5_1"},
}


@pytest.fixture(scope="module", params=MODELS)
def compiled(request: pytest.FixtureRequest, tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    path = tiny_model(layers=LAYERS, **MODELS[request.param])
    return aprgraph.load(path).compile(directory=tmp_path_factory.mktemp("compiled") / "model.aprg")


@pytest.mark.contract("STEPS-CHUNK-1")
@pytest.mark.each_choice
@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_prompt_in_parts(compiled: CompiledModel, positions: str, tmp_path: Path) -> None:
    def traced(chunk: int | None) -> dict[str, bytes]:
        place = tmp_path / str(chunk)
        compiled.run("all", f"0..{LAYERS}", tokens=TOKENS, directory=place, positions=positions, prefill_chunk=chunk)
        return files_under(place)

    whole = traced(None)
    assert len(whole) > 30
    for chunk in (1, 2, 4, len(TOKENS) - 1, len(TOKENS), 1000):
        assert traced(chunk) == whole, chunk


@pytest.mark.contract("STEPS-CHUNK-1")
def test_single_stages_and_statistics_of_a_prompt_in_parts(compiled: CompiledModel, tmp_path: Path) -> None:
    for taps in ("embedding", "lm_head", "attn_softmax", "final_norm,k_post_rope"):
        for stats_only in (False, True):
            found = []
            for chunk in (None, 4):
                place = tmp_path / f"{taps}-{stats_only}-{chunk}"
                compiled.run(taps, "0..1", tokens=TOKENS, directory=place, prefill_chunk=chunk, stats_only=stats_only)
                found.append(files_under(place))
            assert found[0] == found[1], taps


@pytest.fixture(scope="module")
def stepped(compiled: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A run that records every step."""
    return compiled.run(
        "all", f"0..{LAYERS}", tokens=TOKENS, directory=tmp_path_factory.mktemp("stepped"), max_tokens=GENERATED, steps=f"0..{GENERATED}"
    )


def generated(trace: Trace) -> list[int]:
    assert trace.info is not None
    return list(trace.info.extra["generated"])


@pytest.mark.contract("STEPS-DECODE-1")
def test_decoded_tokens(compiled: CompiledModel, stepped: Trace, tmp_path: Path) -> None:
    text = [*TOKENS, *generated(stepped)]
    assert len(text) == len(TOKENS) + GENERATED, "random models do not stop; give this one another seed"
    whole = compiled.run("all", f"0..{LAYERS}", tokens=text, directory=tmp_path / "whole", positions="all")
    compared = 0
    for entry in stepped.entries:
        if entry.step == 0:
            continue
        position = len(TOKENS) + entry.step - 1
        every = whole.tensor(entry.stage, entry.layer)
        attention = entry.stage in ("attn_scores", "attn_softmax")
        row = every[:, position : position + 1, : position + 1] if attention else every[position]
        assert stepped.load(entry).tobytes() == np.ascontiguousarray(row).tobytes(), entry.label
        compared += 1
    assert compared == (GENERATED - 1) * len([entry for entry in stepped.entries if entry.step == 0])
    assert generated(stepped)[0] == int(stepped.tensor("lm_head").argmax())


@pytest.mark.contract("STEPS-CHOICE-1")
def test_which_steps_are_recorded(compiled: CompiledModel, stepped: Trace, tmp_path: Path) -> None:
    some = compiled.run(
        "all", f"0..{LAYERS}", tokens=TOKENS, directory=tmp_path / "some", max_tokens=GENERATED, steps="2..4", prefill_chunk=2
    )
    every = files_under(stepped.directory)
    expected = {name: raw for name, raw in every.items() if name.startswith(("step-2/", "step-3/"))}
    assert {name: raw for name, raw in files_under(tmp_path / "some").items() if name != "trace.json"} == expected
    assert generated(some) == generated(stepped) == list(compiled.generate(GENERATED, tokens=TOKENS))


def test_the_reference_generates_the_same_text(compiled: CompiledModel, stepped: Trace, tmp_path: Path) -> None:
    reference = aprgraph.load(compiled.model.path).compile("reference", tmp_path / "r.aprg")
    trace = reference.run(
        "all", f"0..{LAYERS}", tokens=TOKENS, directory=tmp_path / "t", max_tokens=GENERATED, steps=f"0..{GENERATED}", prefill_chunk=4
    )
    assert generated(trace) == generated(stepped)
    report = aprgraph.diff(stepped.directory, trace.directory)
    assert report.exit_code == 0, report.verdict
