"""A prompt in parts, of which all were recorded, or a later one alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.ops import Array
from aprgraph.runtime.blame import Audit
from aprgraph.runtime.blame.local_errors import LocalState
from aprgraph.runtime.place import Place
from tests.zoo.planting import Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import TOKENS, subject

#: Where the second part begins.
BORDER, END = 6, len(TOKENS)
SCORES = ("attn_scores", "attn_softmax")


@cache
def whole(patch: Patch | None = None) -> dict[Place, Array]:
    """What was recorded of the whole prompt."""
    done = run(subject("llama"), 1000, Plant({} if patch is None else {"rope_angles": patch}))
    return {Place(*key): value for key, (_, value) in done.tensors.items()}


def part(start: int, stop: int, step: int = 0, patch: Patch | None = None) -> dict[str, Any]:
    """The same of some positions, as a pass of them alone has it."""
    cut = {}
    for key, value in whole(patch).items():
        if value.ndim == 1 and stop < END:
            continue
        rows = value if value.ndim == 1 else value[:, start:stop, :stop] if key.stage in SCORES else value[start:stop]
        cut[Place(step, key.layer, key.stage).name] = rows
    return cut


def without_scores(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if not name.endswith(SCORES)}


def audited(arrays: dict[str, Any], *tokens: int) -> Audit:
    return aprgraph.audit({**arrays, "tokens": np.array(tokens)} if tokens else arrays, subject("llama").model)


@pytest.mark.contract("BLAME-CHUNKS-1")
def test_parts_are_steps() -> None:
    """Scores of a part attend to those before it; without them the tokens say that there is no other text."""
    parts = {**part(0, BORDER), **part(BORDER, END, 1)}
    for arrays, tokens in ((parts, ()), (parts, TOKENS), (without_scores(parts), TOKENS)):
        found = audited(arrays, *tokens)
        assert {local.label for local in found.locals if local.state is not LocalState.RIGHT} == (
            set() if tokens else {"layer 0 embedding", "step 1 layer 0 embedding"}
        )


@pytest.mark.contract("BLAME-CHUNKS-1")
def test_a_last_part_of_one_position_is_told_by_the_tokens() -> None:
    found = audited({**part(0, 4), **part(4, END - 1, 1), **part(END - 1, END, 2)}, *TOKENS)
    assert all(local.state is LocalState.RIGHT for local in found.locals)


@pytest.mark.contract("BLAME-CHUNKS-1")
def test_positions_that_begin_again_in_the_second_part_are_named() -> None:
    def again(call: Any) -> Array:
        return np.asarray(call.compute([np.r_[:BORDER, : END - BORDER], *call.operands[1:]]))

    found = audited({**part(0, BORDER, patch=again), **part(BORDER, END, 1, again)}, *TOKENS)
    assert {(local.key.step, local.key.stage) for local in found.wrong} == {(1, "q_post_rope"), (1, "k_post_rope")}
    assert {local.cause for local in found.wrong} == {"RoPE turns by the file's frequencies and positions that begin at 0"}


@pytest.mark.contract("BLAME-CHUNKS-1")
def test_a_cache_in_the_place_of_a_step_s_keys_is_read_by_its_last_rows() -> None:
    prompt, more = part(0, END - 1), part(END - 1, END, 1)
    for layer in range(3):
        more[f"step1.layer{layer}.k_post_rope"] = np.concatenate(
            [prompt[f"layer{layer}.k_post_rope"], more[f"step1.layer{layer}.k_post_rope"]]
        )
    found = audited({**prompt, **more}, *TOKENS[:-1])
    assert {local.label for local in found.locals if local.state is not LocalState.RIGHT} == {"step 1 layer 0 embedding"}
    assert any("holds the KV cache in place of step 1 layer 0 k_post_rope" in note for note in found.notes)


@pytest.mark.contract("BLAME-CHUNKS-1")
def test_all_of_the_text_in_the_place_of_a_step_is_read_by_its_last_rows() -> None:
    """As an engine without a KV cache computes it again for each token; a fault in its last row is found there."""
    arrays = {**part(0, END - 1), **part(0, END, 1)}
    found = audited(arrays, *TOKENS[:-1])
    assert {local.label for local in found.locals if local.state is not LocalState.RIGHT} == {"step 1 layer 0 embedding"}
    assert any("all positions so far, as where there is no KV cache, in place of step 1 layer 0 embedding" in note for note in found.notes)
    spoilt = np.array(arrays["step1.layer1.attn_scores"])
    spoilt[2, -1, 3] += 1
    found = audited({**arrays, "step1.layer1.attn_scores": spoilt}, *TOKENS[:-1])
    assert "step 1 layer 1 attn_scores" in {local.label for local in found.wrong}


@pytest.mark.contract("BLAME-CHUNKS-1")
def test_generated_tokens_are_no_parts_of_a_prompt_of_as_many() -> None:
    """Of the prompt the last position alone was recorded."""
    model = subject("llama", "generating")
    done = run(model, 1000, tokens=TOKENS[: model.steps - 1])
    arrays = {
        Place(*key).name: value[-1:] if value.ndim == 2 else value for key, (_, value) in done.tensors.items() if key[2] not in SCORES
    }
    found = aprgraph.audit({**arrays, "tokens": np.array(done.tokens)}, model.model)
    assert not found.wrong
    assert LocalState.RIGHT in {local.state for local in found.locals if local.key.step}


@pytest.mark.contract("BLAME-CHUNKS-1")
def test_another_text_in_the_place_of_a_step_is_no_part() -> None:
    """It has as many positions as it has, and attends to no other: of another shape, and nobody is wrong."""
    found = audited({**part(0, END), **part(0, END - 2, 1)})
    assert {local.state for local in found.locals if local.key.step} == {LocalState.SHAPE}


@pytest.mark.contract("BLAME-CHUNKS-1")
def test_a_later_part_alone_accuses_nobody() -> None:
    found = audited(without_scores(part(BORDER, END)), *TOKENS[BORDER:])
    assert {local.key.stage for local in found.locals if local.state is not LocalState.RIGHT} == {"attention"}
    assert {local.state for local in found.locals if local.key.stage == "attention"} == {LocalState.UNKNOWN}
    assert any("RoPE counts the positions from 6, and attention does not follow" in note for note in found.notes)


@pytest.mark.contract("BLAME-CHUNKS-1")
def test_a_whole_text_whose_positions_are_counted_from_elsewhere_is_wrong() -> None:
    """Its attention follows from its own keys."""

    def later(call: Any) -> Array:
        return np.asarray(call.compute([call.operands[0] + BORDER, *call.operands[1:]]))

    found = audited(without_scores(part(0, END, patch=later)), *TOKENS)
    assert {local.key.stage for local in found.wrong} == {"q_post_rope", "k_post_rope"}
