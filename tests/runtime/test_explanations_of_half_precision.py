"""Weights and KV caches in a half precision are named as such, and a mistake beside them as that mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.ir import Node
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import OPS, Array
from aprgraph.runtime.blame import audit
from aprgraph.runtime.decoded_weights import decode_weight
from aprgraph.runtime.explain import Explanation
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import spoil, traced

FORMATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
FP8 = {"FP8 (E4M3) without a scale": ml_dtypes.float8_e4m3fn, "FP8 (E5M2) without a scale": ml_dtypes.float8_e5m2}
RNG = np.random.default_rng(3)


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> Model:
    """Six query heads share two KV heads."""
    return load_model(tiny_model(layers=1, heads=6, kv_heads=2, hidden=96))


@pytest.fixture
def trace(model: Model, tmp_path: Path) -> Trace:
    return traced(tmp_path / "trace", Path(model.file.path), layers="0..1")


def half(x: Array, name: str) -> Array:
    return np.asarray(np.float32(x).astype((FORMATS | FP8)[name]).astype(np.float64))


def node_of(model: Model, stage: str) -> Node:
    return next(node for node in build_graph(model).staged() if node.stage == stage)


def recorded(trace: Trace, stage: str, layer: int | None = 0) -> Array:
    return np.asarray(trace.tensor(stage, layer)).astype(np.float64)


def scores_of(trace: Trace, model: Model, k: Array, **attrs: float) -> Array:
    """What attention's scores are from the recorded q, and from ``k``."""
    return OPS["attn_scores"].reference([recorded(trace, "q_post_rope"), k], {**node_of(model, "attn_scores").attrs, **attrs})  # type: ignore[misc]


def explained(trace: Trace, model: Model, stage: str) -> Explanation | None:
    return next(local for local in audit(trace, model).wrong if local.key.stage == stage).explanation


@pytest.mark.contract("BLAME-EXPLAINED-1")
@pytest.mark.parametrize("name", FORMATS | FP8)
def test_a_cache_in_a_half_precision_or_fp8(trace: Trace, model: Model, name: str) -> None:
    """The keys show in the scores, the values in what attention gives."""
    graph = build_graph(model)
    scores, mix = (next(one for one in graph if one.op == op) for op in ("attn_scores", "attn_mix"))
    v = recorded(trace, "qkv_matmul")[:, -len(recorded(trace, "k_post_rope")[0]) :]
    mixed = OPS["attn_mix"].reference([recorded(trace, "attn_softmax"), half(v, name)], mix.attrs)  # type: ignore[misc]
    spoil(trace, "attention", 0, lambda _: mixed)
    assert scores.stage == "attn_scores"
    spoil(trace, "attn_scores", 0, lambda _: scores_of(trace, model, half(recorded(trace, "k_post_rope"), name)))
    for stage in ("attn_scores", "attention"):
        found = explained(trace, model, stage)
        assert found is not None
        assert [one.words for one in found.candidates] == [f"k and v of the KV cache are {name}"], stage


@pytest.mark.contract("BLAME-PARTS-1")
@pytest.mark.parametrize(("name", "profile"), [("float16", "same-graph-f16"), ("bfloat16", "same-graph-bf16")])
def test_what_may_be_meant_is_right_by_its_own_rounding(trace: Trace, model: Model, name: str, profile: str) -> None:
    """The profile that comes next leaves nothing wrong; beside another mistake there is none."""
    weight = build_graph(model)[build_graph(model).operand_names(node_of(model, "lm_head").name)[1]]
    product = recorded(trace, "final_norm", None)[-1] @ half(decode_weight(model, weight), name).T
    spoil(trace, "lm_head", None, lambda _: product)
    said = " ".join(map(str, audit(trace, model).summary.next))
    assert f"if {name} is meant there" in said
    assert f"profile={profile!r}" in said
    assert not audit(trace, model, profile=profile).wrong
    spoil(trace, "ffn_norm", 0, np.cos)
    assert "is meant there" not in " ".join(map(str, audit(trace, model).summary.next))


@pytest.mark.contract("BLAME-EXPLAINED-1")
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stage", ["ffn_out", "lm_head"])
def test_weights_in_a_half_precision(trace: Trace, model: Model, stage: str, name: str) -> None:
    graph = build_graph(model)
    node = node_of(model, stage)
    _, weight = (graph[one] for one in graph.operand_names(node.name))
    rounded = half(decode_weight(model, weight), name)
    product = recorded(trace, "final_norm" if stage == "lm_head" else "ffn_swigl", node.layer) @ rounded.T
    spoil(trace, stage, node.layer, lambda right: product.reshape(-1)[-right.size :].reshape(right.shape))  # of logits one position
    found = explained(trace, model, stage)
    assert found is not None
    assert [one.words for one in found.candidates] == [f"the weights are rounded to {name}"]


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_a_table_in_float16_is_a_weight_or_rounded_behind(trace: Trace, model: Model) -> None:
    """An embedding alone does not tell where it was rounded; another wrong stage does."""
    spoil(trace, "embedding", 0, lambda values: half(values, "float16"))
    apart = explained(trace, model, "embedding")
    assert apart is not None
    assert {one.name for one in apart.candidates} == {"half-precision", "weights-float16"}
    node = node_of(model, "lm_head")
    rounded = half(decode_weight(model, build_graph(model)[build_graph(model).operand_names(node.name)[1]]), "float16")
    spoil(trace, "lm_head", None, lambda _: recorded(trace, "final_norm", None)[-1] @ rounded.T)
    found = explained(trace, model, "embedding")
    assert found is not None
    assert [one.name for one in found.candidates] == ["weights-float16"]


@pytest.mark.contract("BLAME-EXPLAINED-3")
@pytest.mark.parametrize("name", FORMATS)
def test_another_scale_beside_a_cache_in_a_half_precision(trace: Trace, model: Model, name: str) -> None:
    """The scale is named, and what is left is said to be of the size of rounding."""
    scale = float(node_of(model, "attn_scores").attrs["scale"])  # type: ignore[arg-type]
    spoil(trace, "attn_scores", 0, lambda _: scores_of(trace, model, half(recorded(trace, "k_post_rope"), name), scale=scale * scale))
    found = explained(trace, model, "attn_scores")
    assert found is not None
    assert found.first.name == "score-scale + 16 bits"
    assert found.first.words.endswith(f"in place of {scale:g} (what remains is of the size of 16-bit rounding)")


@pytest.mark.contract("BLAME-EXPLAINED-2")
@pytest.mark.parametrize("size", [1e-8, 1e-4, 1e-2])
def test_noise_is_no_half_precision(trace: Trace, model: Model, size: float) -> None:
    """Neither of the size of rounding, nor beside a mistake that explains less than all but such noise."""
    k = recorded(trace, "k_post_rope")
    noisy = k * (1 + size**0.5 * RNG.standard_normal(k.shape))
    spoil(trace, "attn_scores", 0, lambda _: scores_of(trace, model, noisy))
    assert explained(trace, model, "attn_scores") is None
    if size > 1e-5:
        spoil(trace, "attn_scores", 0, lambda _: scores_of(trace, model, noisy, scale=0.5))
        assert explained(trace, model, "attn_scores") is None
