"""llama.cpp as its users run it: every stage that it computed is what its arithmetic makes of the stages before it."""

from __future__ import annotations

from pathlib import Path

import pytest

import aprgraph
from tests.golden.make_llama_cpp_arithmetic import RUNS, Run, llama_cpp_trace, write_model
from tests.support.replayed import replayed_errors

#: Sums of float32 in another order: at most 3e-13 was measured.
ALIKE = 1e-11


@pytest.mark.contract("ARITHMETIC-STAGES-1")
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.key)
def test_every_stage_is_explained(run: Run, tmp_path: Path) -> None:
    """In prefill and in a decoded token, and by no arithmetic that rounds otherwise: neither exact, nor with another cache."""
    model = aprgraph.load(write_model(run, tmp_path / "tiny.gguf")).model
    trace = llama_cpp_trace(run, tmp_path / "theirs")
    errors = replayed_errors(trace, model, run.arithmetic)
    assert {step for step, _, _ in errors} == {0, 1}
    assert len(errors) == len(trace.entries)
    assert max(errors.values()) <= ALIKE, max(errors, key=errors.__getitem__)
    exact = replayed_errors(trace, model, "plain")
    assert sum(error > 1e-9 for error in exact.values()) >= 8
    if run.cache == "f16":
        other = replayed_errors(
            trace, model, run.arithmetic.replace("cache=f16,flash=on", "cache=f32,flash=off").replace("cache=f16", "cache=f32")
        )
        assert max(error for (_, _, stage), error in other.items() if stage.startswith("attention")) > 1e-9
