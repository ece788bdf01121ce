"""Mistakes of ports in a dump that has no more than what each layer gives, as of transformers' hidden states, or what its modules give."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.graph.ops import Array
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.blame import audit
from aprgraph.runtime.blame.local_errors import LocalError
from tests.runtime.test_explanations_of_parts import LAYER
from tests.zoo.faults import FAULTS
from tests.zoo.planting import Call, Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import subject

HIDDEN = "embedding,post_ffn_residual,final_norm,lm_head"
MODULES = f"attn_out,post_attn_residual,ffn_out,{HIDDEN}"
BY_NAME = {fault.name: fault for fault in FAULTS}


def wrong(family: str, plant: Plant, taps: str, variant: str = "plain") -> tuple[LocalError, ...]:
    """What is wrong in a trace of few taps."""
    model = subject(family, variant)
    return audit(run(model, 1000, plant).trace("faulty", parse_plan(taps, "0..3")), model.replayed).wrong


def first(found: tuple[LocalError, ...]) -> str | None:
    """What the first that is wrong is explained by."""
    return found[0].explanation.first.name if found and found[0].explanation is not None else None


@pytest.mark.contract("BLAME-LAYER-1")
@pytest.mark.parametrize("taps", [HIDDEN, MODULES])
@pytest.mark.parametrize(("family", "fault", "name"), [
    ("llama", "RoPE base", "rope-base"),
    ("llama", "RoPE pairing", "rope-pairing"),
    ("llama", "q and k rows not permuted", "rope-rows"),
    ("qwen2", "q and k rows permuted", "rope-rows"),
    ("llama", "mask one ahead", "mask-ahead"),
    ("llama", "scale forgotten", "score-scale"),
    ("llama", "GQA heads in turn", "heads-in-turn"),
    ("llama", "q, k and v by KV groups", "heads-fused"),
    ("llama", "softmax over heads", "softmax-heads"),
    ("llama", "softmax twice", "softmax-twice"),
    ("llama", "gate and up in turn", "gate-up-in-turn"),
    ("llama", "eps ten times too small", "norm-eps"),
])  # fmt: skip
def test_a_fault_of_the_zoo(family: str, fault: str, name: str, taps: str) -> None:
    """The whole way from what the layer before gave lies between two recorded tensors."""
    model, plants = next(
        (variant, sites) for variant in BY_NAME[fault].variants if (sites := BY_NAME[fault].sites(subject(family, variant)))
    )
    assert first(wrong(family, plants[min(1, len(plants) - 1)].plant, taps, model)) == name


def _of_norm(norm: str, added: str) -> Patch:
    return lambda call: call.near(norm) + call.near(added)


def _activated(other: str) -> Patch:
    def patch(call: Call) -> Array:
        return call.compute([call.near(other)] if call.node.op != "mul" else [call.operands[0], call.near(other)])

    return patch


#: What is said: what is computed in place of a layer's.
SLIPS: dict[str, dict[str, Patch]] = {
    "post_attn_residual reads attn_norm in place of layer 0's post_ffn_residual": {
        f"{LAYER}post_attn_residual": _of_norm("attn_norm", "attn_out"),
    },
    "post_ffn_residual reads ffn_norm in place of post_attn_residual": {f"{LAYER}post_ffn_residual": _of_norm("ffn_norm", "ffn_out")},
    "the activation is that of ffn_up, and ffn_gate has none": {
        f"{LAYER}ffn_silu": _activated("ffn_up"),
        f"{LAYER}ffn_swigl": _activated("ffn_gate"),
    },
}  # fmt: skip


@pytest.mark.contract("BLAME-LAYER-1")
@pytest.mark.parametrize("taps", [HIDDEN, MODULES, "all"])
@pytest.mark.parametrize("words", SLIPS)
def test_what_reads_another_value(words: str, taps: str) -> None:
    """The value that it reads was not recorded: it is as right as all that was."""
    assert {local.cause for local in wrong("llama", Plant(SLIPS[words]), taps)} == {words}


@pytest.mark.contract("BLAME-LAYER-1")
def test_noise_has_no_explanation() -> None:
    noise = np.random.default_rng(0)
    plant = Plant({f"{LAYER}attn_out": lambda call: call.compute() + 0.1 * noise.standard_normal((10, call.node.type.dims[1]))})
    assert first(wrong("llama", plant, HIDDEN)) is None
