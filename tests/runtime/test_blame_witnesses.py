"""Blame against numbers that others computed (tests/golden): they are right, and a wrong hyperparameter of ours is found by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import audit
from tests.support.golden import GoldenModel, golden_models
from tests.support.traces import noisy


def write(model: GoldenModel, directory: Path) -> aprgraph.Trace:
    """What Hugging Face transformers computed, as a trace."""
    return aprgraph.Trace.write(directory, dict(model.stages), tokens=model.tokens, target="transformers")


@pytest.mark.contract("BLAME-WITNESS-1")
@pytest.mark.each_choice(of=lambda model: {stage for _, stage in model.stages}, least=3)
@pytest.mark.parametrize("model", golden_models(), ids=lambda model: model.name)
def test_transformers_is_right_by_the_replay(model: GoldenModel, tmp_path: Path) -> None:
    found = audit(write(model, tmp_path / "theirs"), load_model(model.path))
    assert found.sentence == f"{found.name}: right, the model explains all {len(model.stages)} tensors that could be replayed."
    assert max(local.error or 0.0 for local in found.locals) < 1e-11


@pytest.mark.contract("BLAME-WITNESS-1")
@pytest.mark.each_choice(of=lambda model: {stage for _, stage in model.stages}, least=2)
@pytest.mark.parametrize("model", golden_models(), ids=lambda model: model.name)
def test_a_fault_in_what_transformers_computed_is_found(model: GoldenModel, tmp_path: Path) -> None:
    """One stage of the last layer is off, and so is what reads it, as it was computed from the right one; nothing else."""
    trace = write(model, tmp_path / "theirs")
    layer = max(entry.layer for entry in trace.entries if entry.layer is not None)
    stages = {**model.stages, (layer, "attn_out"): noisy(model.stages[layer, "attn_out"], 1e-3)}
    spoilt = aprgraph.Trace.write(tmp_path / "spoilt", stages, tokens=model.tokens, target="transformers")
    found = audit(spoilt, load_model(model.path))
    # In a parallel block nothing is added to the residual stream between attention and network.
    readers = ("attn_post_norm", "post_attn_residual", "post_ffn_residual")
    reader = next(stage for stage in readers if (layer, stage) in model.stages)
    assert [local.key[1:] for local in found.wrong] == [(layer, "attn_out"), (layer, reader)]


@pytest.mark.contract("BLAME-WITNESS-1")
def test_a_wrong_key_of_the_file_is_found_by_what_transformers_computed(tmp_path: Path) -> None:
    model = next(model for model in golden_models() if model.name == "qwen3-f32")
    trace = write(model, tmp_path / "theirs")
    found = audit(trace, load_model(model.path, {"qwen3.rope.freq_base": 10000.0}))
    assert {local.key[2] for local in found.wrong} == {"q_post_rope", "k_post_rope"}
    assert found.common == ("rope_angles",)
    assert np.isfinite([local.error for local in found.wrong if local.error is not None]).all()
