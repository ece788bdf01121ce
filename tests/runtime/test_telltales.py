"""What wrong tensors give away in common is said once, of stages by what each of them has."""

from __future__ import annotations

import pytest

from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.blame.telltales import telltales
from aprgraph.runtime.explain.explanation import Candidate, Explanation
from aprgraph.runtime.place import Place

_MISREAD = "is decoded as if a byte held two neighbours"


def _wrong(layer: int, stage: str, words: str) -> LocalError:
    key = Place(0, layer, stage)
    return LocalError(key, key.label, LocalState.WRONG, 1e-11, explanation=Explanation(Candidate("a-name", words, 1e-14)))


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_a_weight_that_is_called_as_its_stage_is_the_weight_of_each() -> None:
    wrong = [_wrong(layer, stage, f"blk.{layer}.{stage}.weight {_MISREAD}") for layer in (0, 1) for stage in ("ffn_gate", "ffn_up")]
    (found,) = telltales(wrong)
    assert found.cause == f"the weight of each {_MISREAD}"
    assert found.where == "ffn_gate and ffn_up of the layers 0 to 1"
    (found,) = telltales(wrong[:2])
    assert found.cause == f"the weight of each {_MISREAD}"
    (found,) = telltales(wrong[::2])
    assert found.cause == f"blk.*.ffn_gate.weight {_MISREAD}"


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_a_stage_itself_is_each() -> None:
    (found,) = telltales([_wrong(0, stage, f"{stage} is twice as large") for stage in ("ffn_gate", "ffn_up")])
    assert found.cause == "each is twice as large"


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_weights_of_another_layer_are_told_apart_by_the_layer() -> None:
    words = "blk.0.{0}.weight is multiplied by in place of blk.1.{0}.weight"
    (found,) = telltales([_wrong(1, stage, words.format(stage)) for stage in ("ffn_gate", "ffn_up")])
    assert found.cause == "the weight of each of layer 0 is multiplied by in place of the weight of each of layer 1"
