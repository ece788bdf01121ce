"""RoPE that is stretched by other numbers than the model's: planted by the papers' formulas in golden models, and named."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import OPS
from aprgraph.runtime.blame import audit
from tests.support.blame import TOKENS, spoil, traced
from tests.support.golden import GOLDEN

LLAMA3, YARN = "llama-f32-tied-rope-factors", "qwen2-f32-yarn"


def llama3(base: float, pairs: int, original: float, factor: float, *, is_ramp: bool = True) -> np.ndarray:
    """Frequencies by the rule of Llama 3.1: waves longer than the original context turn ``factor`` times more slowly."""
    frequencies = []
    for pair in range(pairs):
        own = base ** (-pair / pairs)
        turns = original * own / (2 * math.pi)
        if turns < 1 or (not is_ramp and turns < 4):
            frequencies.append(own / factor)
        elif turns > 4:
            frequencies.append(own)
        else:
            share = (turns - 1) / 3
            frequencies.append((1 - share) * own / factor + share * own)
    return np.array(frequencies)


def yarn(base: float, pairs: int, original: float, factor: float) -> np.ndarray:
    """Frequencies by section 3.2 of YaRN, with bounds at whole pairs: 32 turns and 1."""
    low, high = (pairs * math.log(original / (turns * 2 * math.pi)) / math.log(base) for turns in (32, 1))
    low, high = max(math.floor(low), 0), min(math.ceil(high), 2 * pairs - 1)
    own = base ** (-np.arange(pairs) / pairs)
    share = np.clip((np.arange(pairs) - low) / (high - low), 0, 1)
    return own * (share / factor + 1 - share)


#: The model, the frequencies, and what is said.
STRETCHES = {
    "another context": (LLAMA3, llama3(1e4, 6, 64, 8), "RoPE is stretched from an original context of 64 positions in place of 16"),
    "another factor": (LLAMA3, llama3(1e4, 6, 16, 32), "RoPE is stretched by a factor of 32 in place of 8"),
    "every pair": (LLAMA3, 1e4 ** (-np.arange(6) / 6) / 8, "RoPE's angles are stretched at every pair, by 8"),
    "no ramp": (LLAMA3, llama3(1e4, 6, 16, 8, is_ramp=False), "RoPE's frequencies are stretched by 8 or not at all, without those between"),
    "YaRN's context": (YARN, yarn(1e4, 8, 4096, 4), "RoPE is stretched from an original context of 4096 positions in place of 1024"),
}


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("name", STRETCHES)
@pytest.mark.parametrize("taps", ["all", "attn_norm,attn_scores"])
def test_other_stretches(name: str, taps: str, tmp_path: Path) -> None:
    """Where q and k were recorded, and where only the scores were that come of them."""
    file, frequencies, words = STRETCHES[name]
    path = GOLDEN / f"{file}.gguf"
    trace = traced(tmp_path / "all", path)
    model = load_model(path)
    graph = build_graph(model)
    table = next(iter(graph.with_op("rope_angles")))
    angles = np.arange(len(TOKENS))[:, None] * frequencies
    turned = table.attr_float("magnitude") * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    before = "qkv_bias" if file == YARN else "qkv_matmul"
    value = np.float64(trace.tensor(before, 0))
    qk = {}
    for stage in ("q_post_rope", "k_post_rope"):
        node = next(one for one in graph.staged() if one.stage == stage and one.layer == 0)
        qk[stage] = OPS["rope"].reference([value, turned], node.attrs)  # type: ignore[misc]
    if taps == "all":
        for stage, wrong in qk.items():
            spoil(trace, stage, 0, lambda _, wrong=wrong: wrong)
        stages = ("q_post_rope", "k_post_rope")
    else:
        trace = traced(tmp_path / "few", path, taps=taps)
        node = next(one for one in graph.staged() if one.stage == "attn_scores" and one.layer == 0)
        scores = OPS["attn_scores"].reference(list(qk.values()), node.attrs)  # type: ignore[misc]
        spoil(trace, "attn_scores", 0, lambda _: scores)
        stages = ("attn_scores",)
    said = {local.key.stage: local.explanation for local in audit(trace, model).wrong if local.key.layer == 0 and local.key.stage in stages}
    assert set(said) == set(stages)
    for stage, found in said.items():
        assert found is not None, stage
        assert words in [one.words for one in found.candidates], stage
        assert {one.name for one in found.candidates} == {"rope-scaling"}, stage  # of six pairs two stretches may be the same
