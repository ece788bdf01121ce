"""Several texts packed into one pass, and a text beside its padding, of which nothing says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import mask_of
from aprgraph.runtime.blame import Audit
from tests.runtime.test_trace_padding import BEFORE, BEHIND, LAYERS, dump
from tests.zoo.planting import Call, Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import TOKENS, subject

SECOND = (7, 8, 2, 9)
BORDER = len(TOKENS)
TEXT = np.repeat([0, 1], [BORDER, len(SECOND)])
POSITIONS = np.r_[:BORDER, : len(SECOND)]


def within_texts(call: Call) -> Array:
    scores = call.operands[0]
    seen = mask_of(scores.shape[1], scores.shape[2], call.node.attrs) & (TEXT[:, None] == TEXT)
    weights = np.where(seen, np.exp(scores), 0)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def packed(*, apart: bool = True, plant: dict[str, Patch] | None = None) -> dict[str, Any]:
    """Two texts in one pass; ``apart``: none sees the other."""
    nodes: dict[str, Patch] = {"rope_angles": lambda call: call.compute([POSITIONS]), **(plant or {})}
    if apart:
        nodes |= {f"layer{layer}.attn_softmax": within_texts for layer in LAYERS}
    done = run(subject("llama"), 1000, Plant(nodes), (*TOKENS, *SECOND))
    return {**{("" if layer is None else f"layer{layer}.") + stage: value for (_, layer, stage), (_, value) in done.tensors.items()}}


def audited(arrays: dict[str, Any], tokens: tuple[int, ...] | None = None) -> Audit:
    return aprgraph.audit(arrays, subject("llama").model, tokens=tokens)


def says(found: Audit, words: str) -> bool:
    return any(words in note for note in found.notes)


@pytest.mark.contract("BLAME-TEXTS-1")
@pytest.mark.parametrize("left_out", [(), ("attn_scores", "attn_softmax")])
def test_a_packed_batch_is_right(left_out: tuple[str, ...]) -> None:
    arrays = {name: array for name, array in packed().items() if not name.endswith(left_out or "-")}
    found = audited(arrays, (*TOKENS, *SECOND))
    assert not found.wrong
    assert says(found, "it holds 2 texts, at positions 0 to 9 and positions 10 to 13, each audited alone; this is of the first")
    assert len(found.locals) == len(arrays) - 1  # the logits are of the second


@pytest.mark.contract("BLAME-TEXTS-1")
def test_a_fault_of_the_second_text_is_named_there() -> None:
    def late(call: Call) -> Array:
        value = call.compute().copy()
        value[BORDER:] *= 2
        return value

    found = audited(packed(plant={"layer1.ffn_out": late}))
    assert {local.label: local.cause for local in found.wrong} == {
        "layer 1 ffn_out": "all rows of blk.1.ffn_down.weight are 2 times the file's"
    }
    assert says(found, "this is of the 2.")


@pytest.mark.contract("BLAME-TEXTS-1")
def test_positions_that_begin_again_where_all_is_seen_are_wrong() -> None:
    found = audited(packed(apart=False))
    assert {local.key.stage for local in found.wrong} == {"q_post_rope", "k_post_rope"}


@pytest.mark.contract("BLAME-TEXTS-1")
@pytest.mark.parametrize("where", ["before", "behind"])
def test_padding_that_no_mask_names(where: str) -> None:
    arrays = dump(BEFORE if where == "before" else BEHIND)
    del arrays["attention_mask"]
    found = audited(arrays)
    assert not found.wrong
    text, rest = ("3 to 12", "0 to 2") if where == "before" else ("0 to 9", "10 to 12")
    assert says(found, f"it holds 1 text, at positions {text}; what is in none of them, positions {rest}, is taken for padding")
    assert any("lm_head" in one.sentence for one in found.reservations) == (where == "behind")  # it is of the last position
