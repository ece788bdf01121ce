"""A text with padding before or behind it, as a batch has it, whose attention mask lies beside its tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import mask_of
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.foreign import open_with_names
from aprgraph.runtime.trace.reader import Trace
from tests.zoo.planting import Call, Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import TOKENS, subject

PAD, COUNT = 0, 3
LAYERS = range(3)


def among(real: Array) -> Patch:
    """A softmax over the keys of the text alone; a query that sees none weighs all alike, as in transformers."""

    def patch(call: Call) -> Array:
        scores = call.operands[0]
        seen = mask_of(scores.shape[1], scores.shape[2], call.node.attrs) & real
        weights = np.where(seen, np.exp(scores), 0)
        total = weights.sum(axis=-1, keepdims=True)
        return np.where(total > 0, weights / np.where(total > 0, total, 1), np.float32(1 / scores.shape[2]))

    return patch


def dump(real: Array, *, masked: bool = True, shifted: bool = True) -> dict[str, Any]:
    """What an engine leaves of the text and its padding."""
    tokens = np.full(len(real), PAD)
    tokens[real] = TOKENS
    positions = np.where(real, np.cumsum(real) - 1, 1)
    nodes: dict[str, Patch] = {f"layer{layer}.attn_softmax": among(real) for layer in LAYERS if masked}
    if shifted:
        nodes["rope_angles"] = lambda call: call.compute([positions])
    done = run(subject("llama"), 1000, Plant(nodes), [int(token) for token in tokens])
    arrays = {Place(*key).name: value[None] for key, (_, value) in done.tensors.items()}
    return {**arrays, "tokens": tokens[None], "attention_mask": real.astype(np.int64)[None]}


def opened(arrays: dict[str, Any]) -> Trace:
    [trace] = open_with_names([arrays], ())
    assert isinstance(trace, Trace)
    return trace


BEFORE = np.arange(len(TOKENS) + COUNT) >= COUNT
BEHIND = BEFORE[::-1]


@pytest.mark.contract("CAPTURE-FILES-3")
@pytest.mark.parametrize("where", ["before", "behind"])
def test_padding_is_left_out_and_said(where: str) -> None:
    arrays = dump(BEFORE if where == "before" else BEHIND)
    found = aprgraph.audit(arrays, subject("llama").model)
    assert not found.wrong
    assert any(f"3 positions of padding {where} the text are left out, as attention_mask says" in note for note in found.notes)
    trace = opened(arrays)
    assert trace.info is not None
    assert trace.info.tokens == TOKENS
    text = slice(COUNT, None) if where == "before" else slice(0, -COUNT)
    assert np.array_equal(trace["layer1.attn_scores"], arrays["layer1.attn_scores"][0, :, text, text])
    assert np.array_equal(trace["layer2.ffn_out"], arrays["layer2.ffn_out"][0, text])
    unread = [one.file for one in trace.unread]
    assert unread == ([] if where == "before" else ["lm_head"])  # the last position is padding


@pytest.mark.contract("CAPTURE-FILES-3")
def test_a_mask_that_the_engine_ignored_shows() -> None:
    """Of the same tensors nothing is wrong where padding is taken for text."""
    arrays = dump(BEFORE, masked=False)
    found = aprgraph.audit(arrays, subject("llama").model)
    assert {local.key.stage for local in found.wrong} == {"attn_softmax", "attention"}
    assert all("as where padding to the left is not masked" in (local.cause or "") for local in found.wrong)
    ignored = dump(BEFORE, masked=False, shifted=False)
    del ignored["attention_mask"]
    assert not aprgraph.audit(ignored, subject("llama").model).wrong


@pytest.mark.contract("CAPTURE-FILES-3")
def test_positions_that_are_counted_from_the_padding_s_are_no_fault() -> None:
    """As where nobody gives them: attention sees no difference. Without the mask it is one."""
    arrays = dump(BEFORE, shifted=False)
    found = aprgraph.audit(arrays, subject("llama").model)
    assert not found.wrong
    assert any("from that of the first token behind the padding, 3" in note for note in found.notes)
    ours = {Place(*key).name: value for key, (_, value) in run(subject("llama"), 1).tensors.items()}
    report = aprgraph.diff(ours, arrays, model=subject("llama").model)
    assert report.blame is not None
    assert not report.blame.wrong
    del arrays["attention_mask"]
    assert {local.key.stage for local in aprgraph.audit(arrays, subject("llama").model).wrong} == {"attn_softmax"}


@pytest.mark.contract("CAPTURE-FILES-3")
def test_generated_tokens_attend_to_the_prompt_without_its_padding() -> None:
    n, heads = len(BEFORE), 4
    scores = np.arange(heads * (n + 1), dtype=np.float32).reshape(heads, 1, n + 1)
    arrays = {"layer0.attn_norm": np.ones((n, 8)), "step1.layer0.attn_scores": scores, "step1.layer0.attn_norm": np.ones((1, 8))}
    trace = opened({**arrays, "attention_mask": BEFORE})
    assert np.array_equal(trace["step1.layer0.attn_scores"], scores[:, :, COUNT:])
    assert trace["layer0.attn_norm"].shape == (len(TOKENS), 8)
    trace = opened({**arrays, "attention_mask": BEHIND})
    assert np.array_equal(trace["step1.layer0.attn_scores"], np.delete(scores, [n - 3, n - 2, n - 1], axis=2))


@pytest.mark.contract("CAPTURE-FILES-3")
@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (np.ones(5), None),
        (np.array([0, 1, 0, 1, 1]), "it hides positions between others, or all of them: that is no padding"),
        (np.zeros(5), "it hides positions between others, or all of them: that is no padding"),
        (np.array([0, 1, 1]), "it is of 3 positions, and the prompt is not"),
        (np.zeros((1, 1, 5, 5)), "it is float64 of the shape [1, 1, 5, 5]; of 0 and 1, [n], it would say which positions are padding"),
        (np.array([[0, 1, 1, 1, 1]] * 2), "it is int64 of the shape [2, 5]; of 0 and 1, [n], it would say which positions are padding"),
    ],
)
def test_masks_that_say_nothing_of_padding(mask: Array, why: str | None) -> None:
    """Nothing is left out for them, and why they are not read is said; one that hides nothing has been read."""
    trace = opened({"layer0.attn_norm": np.ones((5, 8)), "attention_mask": mask})
    assert trace["layer0.attn_norm"].shape == (5, 8)
    assert [one.sentence for one in trace.unread] == ([] if why is None else [f"attention_mask: {why}"])
    assert not trace.read_as
