"""RoPE at long prompts: angles that are multiplied up in float32, as llama.cpp does, are no fault; another base is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import audit
from aprgraph.runtime.diff.tolerances import find_tolerance
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import spoil
from tests.support.traces import Tensor

Tiny = Callable[..., Path]
N, HEADS, SIZE, BASE = 1500, 4, 64, 1e5


def chained(x: Tensor, base: float = BASE) -> Tensor:
    """q after RoPE of neighbours with llama.cpp's angles (ggml's ggml_rope_cache_init): float32, one factor after the other."""
    scale = np.float32(base) ** np.float32(-2.0 / SIZE)
    angle = np.arange(N, dtype=np.float32)
    result = x.reshape(N, -1, SIZE).copy()
    for pair in range(SIZE // 2):
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = x.reshape(N, -1, SIZE)[..., 2 * pair], x.reshape(N, -1, SIZE)[..., 2 * pair + 1]
        result[..., 2 * pair], result[..., 2 * pair + 1] = a * cos - b * sin, a * sin + b * cos
        angle = angle * scale
    return result.reshape(x.shape)


@pytest.fixture
def trace(tiny_model: Tiny, tmp_path: Path) -> tuple[Path, Trace]:
    model = tiny_model(hidden=HEADS * SIZE, ffn=64, layers=1, context=2048, rope_base=BASE)
    compiled = aprgraph.load(model).compile("reference", tmp_path / "m.aprg")
    tokens = [int(token) for token in np.random.default_rng(0).integers(0, 256, N)]
    return model, compiled.run("qkv_matmul,q_post_rope", "0..1", tokens=tokens, directory=tmp_path / "trace")


@pytest.mark.contract("BLAME-ROPE-1")
def test_angles_multiplied_up_are_right(trace: tuple[Path, Trace]) -> None:
    model, recorded = trace
    q = np.array(recorded.tensor("qkv_matmul", 0))[:, : HEADS * SIZE]
    spoil(recorded, "q_post_rope", 0, lambda _: chained(q))
    found = audit(recorded, load_model(model))
    local = found.by_key[0, 0, "q_post_rope"]
    assert found.exit_code == 0
    assert local.error is not None
    assert find_tolerance("same-graph-f32", "q_post_rope").own < local.error < local.limit
    assert local.limit == pytest.approx(4e-16 * N**2)


@pytest.mark.contract("BLAME-ROPE-1")
@pytest.mark.parametrize("base", [BASE * 1.001, BASE * 2])
def test_another_base_is_wrong_all_the_same(base: float, trace: tuple[Path, Trace]) -> None:
    model, recorded = trace
    q = np.array(recorded.tensor("qkv_matmul", 0))[:, : HEADS * SIZE]
    spoil(recorded, "q_post_rope", 0, lambda _: chained(q, base))
    found = audit(recorded, load_model(model))
    assert [local.label for local in found.wrong] == ["layer 0 q_post_rope"]
