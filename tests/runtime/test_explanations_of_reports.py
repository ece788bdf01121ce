"""Mistakes that users of engines have reported: planted in models of the zoo, and named. Each names the report, or one like it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from aprgraph.graph.ops import Array
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.blame import audit
from tests.runtime.test_explanations_of_parts import LAYER, changed, explanations, weight
from tests.zoo.faults.patches import left_out, then
from tests.zoo.planting import Call, Misreading, Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import subject

N = 10
#: What engines with fused attention have to show: neither scores nor softmax.
FUSED = "qkv_matmul,q_post_rope,k_post_rope,attention,attn_out"


def causes(family: str, plant: Plant, taps: str = "all", variant: str = "plain") -> dict[str, str | None]:
    """What is wrong in a trace, and why."""
    model = subject(family, variant)
    found = audit(run(model, 1000, plant).trace("faulty", parse_plan(taps, "0..3")), model.replayed)
    return {local.label: local.cause for local in found.wrong}


def turned(call: Call) -> Array:
    """Each head turned by the angles of its position and its number together."""
    x, table = call.operands
    half = table.shape[1] // 2
    size = call.node.attr_int("head_size")
    heads = []
    for head in range(call.node.attr_int("heads")):
        angles = (call.values["positions"][:, None] + head) * (1e4 ** (-np.arange(half) / half))
        own = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        heads.append(call.compute([x, own])[:, head * size : (head + 1) * size])
    return np.concatenate(heads, axis=1)


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize("steps", [range(1), range(1, 3)])
def test_heads_that_count_on_like_positions(steps: range) -> None:
    """elixir-nx/emlx#121: a kernel whose axis of positions is that of heads turns by the sum of both, most often one token at a time."""
    plant = Plant({f"{LAYER}q_post_rope": turned, f"{LAYER}k_post_rope": turned}, steps=steps)
    found = causes("llama", plant, variant="generating")
    assert set(found.values()) == {"RoPE turns head h of position p by the angles of position p + h"}
    assert len(found) == 2 * len(steps)


def _alone(call: Call, seen: Callable[[Array, Array], Array]) -> Array:
    weights, v = call.operands
    keys = np.arange(weights.shape[-1])
    kept = np.where(seen(keys[:, None], keys[None]), weights, 0)
    rest = 1 - weights.sum(axis=-1, keepdims=True)  # a sink's
    return call.compute([kept / (kept.sum(axis=-1, keepdims=True) + rest), v])


def _merged(exponent: float) -> Patch:
    """The keys before 6 and the others, merged by another power of what each part's exponentials add up to."""

    def patch(call: Call) -> Array:
        weights, v = call.operands
        first = np.arange(N) < 6
        sums = [np.where(side, weights, 0).sum(axis=-1, keepdims=True) for side in (first, ~first)]
        powers = [part**exponent if exponent else np.sign(part) for part in sums]
        shares = np.where(first, powers[0], powers[1]) / (powers[0] + powers[1])
        return call.compute([weights / np.maximum(np.where(first, sums[0], sums[1]), 1e-30) * shares, v])

    return patch


#: What is said: what attention gives.
IN_PARTS: dict[str, Patch] = {
    # vllm-project/vllm#26042 and others of prompts in chunks
    "queries from position 6 on see no key before that, as where each part of a prompt is alone": lambda call: _alone(
        call, lambda query, key: (query < 6) | (key >= 6)
    ),
    "each query sees the keys of its own part of 4 positions alone": lambda call: _alone(call, lambda query, key: key >= query // 4 * 4),
    "queries from position 6 on see the keys before that alone": lambda call: _alone(call, lambda query, key: (query < 6) | (key < 6)),
    # sgl-project/sglang#40903, vllm-project/vllm#52796
    "the keys before position 6 and those from there on are merged by log-sum-exps in base 2 that are taken for natural logarithms": _merged(
        1 / math.log(2)
    ),
    "the keys before position 6 and those from there on are merged by natural log-sum-exps that are taken for logarithms in base 2": _merged(
        math.log(2)
    ),
    "the keys before position 6 and those from there on are merged as if both had the same log-sum-exp": _merged(0),
}


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize(
    ("family", "words"), [*(("llama", words) for words in IN_PARTS), *(("gpt-oss", words) for words in IN_PARTS if "merged" not in words)]
)
def test_attention_over_keys_in_parts(family: str, words: str) -> None:
    """With sinks too, which every query sees."""
    assert causes(family, Plant({f"{LAYER}attention": IN_PARTS[words]}), FUSED) == {"layer 1 attention": words}


def _other_sinks(change: Callable[[Array], Array]) -> dict[str, Misreading]:
    return {"blk.1.attn_sinks.weight": weight(change)}


#: What is said: what the sinks of layer 1 are taken for (vllm-project/vllm-metal#550, ekryski/mlx-swift-lm#130).
SINKS: dict[str, dict[str, Misreading]] = {
    "the sinks are those of layer 0": {"blk.1.attn_sinks.weight": lambda stored: stored.subject.weight("blk.0.attn_sinks.weight")},
    "sinks are powers of 2, and not of e": _other_sinks(lambda own: own * np.float32(math.log(2))),
    "sinks are multiplied by the scale of scores": {
        "blk.1.attn_sinks.weight": lambda stored: stored.right * stored.subject.graph[f"{LAYER}attn_scores"].attr_float("scale")
    },
    "each head has the sink of that 1 further on": _other_sinks(lambda own: np.roll(own, -1)),
    "every 2 heads have the sinks of part 1 of 2 of the heads": _other_sinks(lambda own: np.tile(own[:2], 2)),
    "the sink of head 1 is 3.5 in place of the file's": _other_sinks(lambda own: np.where(np.arange(4) == 1, np.float32(3.5), own)),
}


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize("words", SINKS)
@pytest.mark.parametrize("taps", ["all", FUSED])
def test_other_sinks(words: str, taps: str) -> None:
    """They show in the softmax, and where that was not recorded in what is mixed: of each query and head another factor."""
    stage = "attn_softmax" if taps == "all" else "attention"
    assert causes("gpt-oss", Plant(weights=SINKS[words]), taps) == {f"layer 1 {stage}": words}


def _part_of(part: int, count: int) -> Patch:
    return changed(0, lambda x: np.where(np.arange(x.shape[1]) * count // x.shape[1] == part, x, 0))


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize(("count", "part", "columns"), [(2, 0, "0 to 47"), (2, 1, "48 to 95"), (4, 2, "48 to 71"), (8, 7, "84 to 95")])
def test_sums_of_devices_that_are_not_added_up(count: int, part: int, columns: str) -> None:
    """An all-reduce that is left out leaves what one device has."""
    words = (
        f"the columns {columns} of blk.1.ffn_down.weight alone count in every sum, as where the sums of {count} devices are not added up"
    )
    assert explanations("llama", Plant({f"{LAYER}ffn_out": _part_of(part, count)})) == {"layer 1 ffn_out": [words]}


def _without_squares(call: Call) -> Array:
    return np.asarray(call.operands[0].reshape(N, -1, len(call.operands[1])) / np.sqrt(np.float32(1e-5)) * call.operands[1]).reshape(N, -1)


#: What is said: the node of layer 1, and what it computes in a Qwen 3.
NODES: dict[str, tuple[str, Patch]] = {
    # ml-explore/mlx#4250, huggingface/candle#3856
    "columns 64 to 95 of ffn_up are zero": ("ffn_up", then(lambda value: np.where(np.arange(96) < 64, value, 0))),
    "columns 3, 70 to 95 of ffn_swigl are zero": (
        "ffn_swigl", then(lambda value: np.where((np.arange(96) < 70) & (np.arange(96) != 3), value, 0)),
    ),
    # vllm-project/vllm-ascend#12642
    "the mean of the squares is taken for 0: rows are divided by the root of epsilon, 1e-05, alone": ("k_norm", _without_squares),
}  # fmt: skip


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize("words", NODES)
def test_what_a_kernel_leaves_out(words: str) -> None:
    node, patch = NODES[words]
    assert explanations("qwen3", Plant({LAYER + node: patch})) == {f"layer 1 {node}": [words]}


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_one_row_of_a_weight_for_all() -> None:
    """huggingface/candle#3856: strides of 0."""
    plant = Plant(weights={"blk.1.ffn_gate.weight": weight(lambda own: np.broadcast_to(own[:1], own.shape))})
    assert explanations("llama", plant) == {"layer 1 ffn_gate": ["all rows of blk.1.ffn_gate.weight are its row 0"]}


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_a_gate_of_one_number_that_is_left_out_is_no_softmax() -> None:
    """A softmax of one number is 1 whatever that is, and so nothing that a longer text would tell apart."""
    assert causes("qwen2moe", Plant({f"{LAYER}shared_expert": left_out})) == {"layer 1 moe_ffn_out": "shared_expert is without shared_gate"}
