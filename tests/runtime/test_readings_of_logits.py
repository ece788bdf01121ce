"""Logits that were recorded as what is made of them are read so; what is wrong in them is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.ops import Array
from aprgraph.runtime.blame import audit
from aprgraph.runtime.readings.layout import Layout
from aprgraph.runtime.readings.search import find_reading
from tests.zoo.faults.patches import then
from tests.zoo.planting import Plant
from tests.zoo.runs import run
from tests.zoo.subjects import subject

RNG = np.random.default_rng(2)


def softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


FORMS: dict[str, Callable[[Array], Array]] = {
    "as the softmax of the logits": softmax,
    "as the logarithm of the softmax of the logits": lambda logits: np.log(softmax(logits.astype(np.float64))),
    "with the largest logit of each position taken off": lambda logits: logits - logits.max(axis=-1, keepdims=True),
    "with the mean of each position's logits taken off": lambda logits: logits - logits.mean(axis=-1, keepdims=True, dtype=np.float64),
}


@pytest.mark.contract("BLAME-RECORDING-1")
@pytest.mark.parametrize("words", FORMS)
def test_logits_in_another_form_are_right(words: str) -> None:
    model = subject("llama")
    found = audit(run(model, 1000, Plant({"lm_head": then(FORMS[words])})).trace("theirs", model.everything), model.replayed)
    assert found.wrong == ()
    assert {local.key.stage: local.reading for local in found.locals if local.reading is not None} == {"lm_head": words}
    assert f"if it was recorded {words}" in " ".join(map(str, found.summary.notes))


def _best(logits: Array) -> Array:
    return np.where(logits >= np.sort(logits, axis=-1)[:, -5:-4], logits, np.float32(-np.inf))


@pytest.mark.contract("BLAME-RECORDING-1")
def test_the_best_logits_alone_are_right_as_far_as_they_are_there() -> None:
    model = subject("llama")
    found = audit(run(model, 1000, Plant({"lm_head": then(_best)})).trace("theirs", model.everything), model.replayed)
    assert found.wrong == ()
    [words] = [local.reading for local in found.locals if local.reading is not None]
    assert words == "with all but the best 5 of each position at -inf, which were not compared"
    other = audit(run(model, 1000, Plant({"lm_head": then(lambda one: -_best(-one))})).trace("theirs", model.everything), model.replayed)
    assert [local.key.stage for local in other.wrong] == ["lm_head"]


@pytest.mark.contract("BLAME-RECORDING-1")
def test_a_temperature_is_said_and_may_be_the_engine_s() -> None:
    """A factor of the logits that was left out looks the same."""
    model = subject("llama")
    plant = Plant({"lm_head": then(lambda logits: softmax(logits / np.float32(0.7)))})
    found = audit(run(model, 1000, plant).trace("theirs", model.everything), model.replayed)
    assert [local.key.stage for local in found.wrong] == ["lm_head"]
    assert "as the softmax of the logits divided by 0.7" in str(found.wrong[0].reason)


@pytest.mark.contract("BLAME-RECORDING-1")
def test_a_wrong_probability_is_no_form_of_recording() -> None:
    def exchanged(logits: Array) -> Array:
        return softmax(logits)[:, [1, 0, *range(2, logits.shape[-1])]]

    model = subject("llama")
    found = audit(run(model, 1000, Plant({"lm_head": then(exchanged)})).trace("theirs", model.everything), model.replayed)
    assert [local.key.stage for local in found.wrong] == ["lm_head"]


@pytest.mark.contract("BLAME-RECORDING-1")
@pytest.mark.parametrize("words", FORMS)
def test_each_position_has_its_own_sum(words: str) -> None:
    """Also where a float32 holds nothing of some probabilities."""
    logits = RNG.standard_normal((3, 50)).astype(np.float32) * np.float32([[1], [5], [60]])
    recorded = np.asarray(FORMS[words](logits), np.float32)
    layout = Layout((("n", 3), ("V", 50)), is_logits=True)
    found = find_reading(recorded, logits, layout, lambda values: bool(np.abs(values - logits).max() < 1e-4 * np.abs(logits).max()))
    assert found is not None
    assert found.words == words
    assert find_reading(recorded, logits, Layout((("n", 3), ("V", 50))), lambda values: bool(np.abs(values - logits).max() < 1e-4)) is None


@pytest.mark.contract("BLAME-RECORDING-1")
@pytest.mark.parametrize("words", ["as the softmax of the logits", "as the logarithm of the softmax of the logits"])
def test_two_traces_without_a_model_tell_it_too(words: str) -> None:
    """Whichever side has it, at all positions or at the last; an exchange of two probabilities is a difference."""
    logits = RNG.standard_normal((6, 50)).astype(np.float32)
    made = np.asarray(FORMS[words](logits), np.float32)
    exchanged = made[:, [1, 0, *range(2, 50)]]
    for a, b in ((logits, made), (made, logits), (logits, made[-1])):
        report = aprgraph.diff({"lm_head": a}, {"lm_head": b})
        assert report.exit_code == 0
        side = "A" if a is made else "B"
        assert any(f"({side}) has lm_head recorded {words}" in str(note) for note in report.summary.notes)
    assert aprgraph.diff({"lm_head": logits}, {"lm_head": exchanged}).exit_code == 1
    assert aprgraph.diff({"lm_head": logits}, {"lm_head": logits[:, ::-1]}).exit_code == 1
