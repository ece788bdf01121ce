"""Mistakes that decoding shows: positions, and states in other forms, of which few or all tensors were recorded; planted, and named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from aprgraph.graph.ops import Array, traits_of
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.blame import audit
from aprgraph.runtime.explain.half_precision import bfloat16
from tests.zoo.planting import Call, Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import STEPS, Subject, subject

DECODED = range(1, STEPS)
#: Neither keys nor scores among them.
AROUND = "qkv_matmul,attention,attn_out,ffn_norm"


def explained(model: Subject, plant: Plant, taps: str) -> dict[str, set[str]]:
    """By mistake, which tensors it explains; under "" those that are not explained."""
    found = audit(run(model, 1000, plant).trace("faulty", parse_plan(taps, "0..3")), model.replayed)
    said: dict[str, set[str]] = {}
    for local in found.wrong:
        words = [] if local.explanation is None else [one.words for one in local.explanation.candidates]
        said.setdefault(" or ".join(words), set()).add(local.label)
    return said


def in_steps(stage: str, steps: Sequence[int], layers: Sequence[int] = range(3)) -> set[str]:
    return {f"{f'step {step} ' * (step > 0)}layer {layer} {stage}" for step in steps for layer in layers}


def one_further(call: Call) -> Array:
    positions, *factors = call.operands
    return call.compute([positions + 1, *factors])


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_what_a_mistake_before_the_cache_left_there_explains_later_steps() -> None:
    """Keys were not recorded: those of the first decoded token are read by the second."""
    said = explained(subject("llama", "generating"), Plant({"rope_angles": one_further}, steps=DECODED), AROUND)
    assert said == {"RoPE counts the positions from one that is 1 further on": in_steps("attention", DECODED)}


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_a_mistake_of_all_steps_is_in_the_keys_of_the_prompt_too() -> None:
    plant = Plant({"rope_angles": lambda call: call.compute(base=500000.0)})
    said = explained(subject("llama", "generating"), plant, AROUND)
    assert said == {"RoPE's base is 500000 in place of 10000": in_steps("attention", range(STEPS))}


def beginning_with(change: Callable[[Array], Array]) -> Patch:
    """Each decoded step begins with the state that the one before left, changed."""
    left: dict[str, Array] = {}

    def patch(call: Call) -> Array:
        state = traits_of(call.node).state
        assert state is not None
        before = left.get(call.node.name, call.earlier) if call.step > 1 else call.earlier
        value, left[call.node.name] = state.advance(call.operands, call.node.attrs, change(np.asarray(before)))
        return np.asarray(value, np.float32)

    return patch


#: What is said: family, the op, what becomes of its state, the stage that shows it.
STATES: dict[str, tuple[str, str, Callable[[Array], Array], str]] = {
    "the state of conv_out is kept in bfloat16": ("lfm2", "conv_out", bfloat16, "conv_out"),
    "the state of conv_out has its rows in the other order": ("lfm2", "conv_out", lambda rows: rows[::-1], "conv_out"),
    "the state of conv_out has its rows a place late, without the newest": (
        "mamba2", "conv_out", lambda rows: np.concatenate([np.zeros_like(rows[:1]), rows[:-1]]), "conv_out",
    ),
    "the state of conv_out has its rows a place early, without the oldest": (
        "mamba2", "conv_out", lambda rows: np.concatenate([rows[1:], np.zeros_like(rows[:1])]), "attn_out",
    ),
    "the state of ssm_scan is kept in bfloat16": ("mamba2", "ssm_scan", bfloat16, "attn_out"),
    "the state of delta_rule is transposed in each head": ("qwen3next", "delta_rule", lambda heads: heads.swapaxes(1, 2), "delta_rule"),
}  # fmt: skip


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("words", STATES)
def test_a_state_in_another_form(words: str) -> None:
    """With all that goes into the op recorded, or with the layer's result alone: then what comes behind the op has a state too."""
    family, op, change, stage = STATES[words]
    model = subject(family, "generating")
    layers = [layer for layer in range(3) if f"layer{layer}.{op}" in model.graph]
    plant = Plant({f"layer{layer}.{op}": beginning_with(change) for layer in layers}, steps=DECODED)
    taps = "attn_norm,attn_out,post_ffn_residual" if stage == "attn_out" else "all"
    assert explained(model, plant, taps) == {words: in_steps(stage, DECODED, layers)}
