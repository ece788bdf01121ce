"""A bias that counts otherwise is said to be that, whatever was recorded around it, and nothing else is accused beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from aprgraph.graph.ops import Array
from aprgraph.runtime.blame import Audit, audit
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32
from tests.zoo.planting import Call, Patch, Plant
from tests.zoo.runs import MemoryTrace, run
from tests.zoo.subjects import subject

BIAS, PRODUCT = "qkv_bias", "qkv_matmul"
Change = Callable[[Array], Array]


def q_by(change: Change) -> Patch:
    """The bias of q is changed."""
    return lambda call: call.compute([call.operands[0], change(call.operands[1]), *call.operands[2:]])


def all_times(factor: float) -> Patch:
    def patch(call: Call) -> Array:
        x, *biases = call.operands
        return call.compute([x, *(np.float32(factor) * bias for bias in biases)])

    return patch


def audited(patch: Patch, layers: Sequence[int], recorded: str) -> Audit:
    """The audit of a run with the fault, of which both stages were ``recorded``, the bias alone, or one product that has the biases in it."""
    model = subject("qwen2", "plain")
    whole = run(model, 1000, Plant({f"layer{layer}.{BIAS}": patch for layer in layers})).trace("theirs", model.everything)
    if recorded == "both":
        return audit(whole, model.replayed)
    tensors: dict[Place, tuple[str, F32]] = {}
    for entry in whole:
        key, node = entry.key, entry.node or ""
        if key.stage == BIAS and recorded == "product":
            key, node = key._replace(stage=PRODUCT), node.replace(BIAS, PRODUCT)
        elif key.stage == PRODUCT:
            continue
        tensors[key] = node, whole.load(entry)
    assert whole.info is not None
    return audit(MemoryTrace("theirs", None if recorded == "product" else whole.graph(), tensors, whole.info), model.replayed)


FAULTS: dict[str, Patch] = {
    "{q} is left out": q_by(np.zeros_like),
    "{q} is added 0.5 times": q_by(lambda bias: bias / 2),
    "{q} is added twice": q_by(lambda bias: bias * 2),
    "{q} is taken off": q_by(np.negative),
    "{q} is left out at its elements 16 to 63": q_by(lambda bias: np.where(np.arange(len(bias)) < 16, bias, 0).astype(np.float32)),
    "the biases are left out": all_times(0),
    "the biases are added 0.5 times": all_times(0.5),
}


@pytest.mark.contract("BLAME-EXPLAINED-1")
@pytest.mark.parametrize("recorded", ["both", "bias", "product"])
@pytest.mark.parametrize("words", FAULTS)
def test_a_bias_of_one_layer(words: str, recorded: str) -> None:
    """Beside products that were recorded with their biases, of which one is wrong, the others stay right."""
    found = audited(FAULTS[words], [1], recorded)
    assert [local.label for local in found.wrong] == ["layer 1 qkv_bias"]
    explanation = found.wrong[0].explanation
    assert explanation is not None
    assert [one.words for one in explanation.candidates] == [words.format(q="blk.1.attn_q.bias")]


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_a_bias_of_every_layer_in_products_that_have_their_biases_in_them() -> None:
    """No product is right in either place: what reads them tells that they have biases in them."""
    found = audited(FAULTS["{q} is added 0.5 times"], [0, 1, 2], "product")
    assert [local.label for local in found.wrong] == [f"layer {layer} qkv_bias" for layer in range(3)]
    words = [local.explanation.first.words for local in found.wrong if local.explanation is not None]
    assert words == [f"blk.{layer}.attn_q.bias is added 0.5 times" for layer in range(3)]


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_biases_that_no_product_has_in_it_are_left_out() -> None:
    """Products without biases are what the model's are: what reads them says that the biases are left out, all or one."""
    for words, read in (("the biases are left out", {"q_post_rope", "k_post_rope", "attention"}), ("{q} is left out", {"q_post_rope"})):
        model = subject("qwen2", "plain")
        whole = run(model, 1000, Plant({f"layer1.{BIAS}": FAULTS[words]})).trace("theirs", model.everything)
        tensors = {entry.key: (entry.node or "", whole.load(entry)) for entry in whole if entry.stage != BIAS}
        assert whole.info is not None
        found = audit(MemoryTrace("theirs", whole.graph(), tensors, whole.info), model.replayed)
        assert {local.key.stage for local in found.wrong} == read
        for local in found.wrong:
            assert local.explanation is not None
            assert [one.words for one in local.explanation.candidates] == [words.format(q="blk.1.attn_q.bias")]


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_what_is_added_at_every_position_is_no_adapter() -> None:
    """A bias that the model has not: of rank 1, and the same whatever the position holds."""
    model = subject("llama", "plain")
    added = np.linspace(-1, 1, 2 * 64, dtype=np.float32)
    patch: Patch = lambda call: call.compute() + added[: call.compute().shape[1]]  # noqa: E731
    found = audit(run(model, 1000, Plant({f"layer1.{PRODUCT}": patch})).trace("theirs", model.everything), model.replayed)
    assert [local.label for local in found.wrong] == [f"layer 1 {PRODUCT}"]
    explanation = found.wrong[0].explanation
    assert explanation is not None
    said = [one.words for one in explanation.candidates]
    assert said == ["the same numbers, -1 to 1, are added at every position of qkv_matmul, as a bias is"]
