"""What products and attention read, and what they add up, in fewer bits than was recorded: planted by formulas of their own, and named."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.ops import Array
from tests.runtime.test_explanations_of_attention import LAYER, explanations, said_of
from tests.zoo.faults.patches import reading
from tests.zoo.planting import Call, Patch

FP8 = ml_dtypes.float8_e4m3fn


def scaled(most: float, rounded: Callable[[Array], Array], axis: int | None) -> Callable[[Array], Array]:
    def change(x: Array) -> Array:
        scale = np.abs(x).max(axis=axis, keepdims=True) / most
        return np.asarray(rounded(x / scale) * scale)

    return change


def to_fp8(x: Array) -> Array:
    return np.asarray(np.clip(x, -448, 448).astype(np.float32).astype(FP8).astype(np.float64))


def to_tf32(x: Array) -> Array:
    """Eleven bits, halves away from 0: float16 has as many, and rounds halves to even."""
    mantissa, exponent = np.frexp(np.float64(x))
    return np.asarray(np.ldexp(np.sign(mantissa) * np.floor(np.abs(mantissa) * 2**11 + 0.5) / 2**11, exponent))


def set_beforehand(most: float, least: float, rounded: Callable[[Array], Array], share: float) -> Callable[[Array], Array]:
    """One scale, for numbers up to ``share`` of the largest."""

    def change(x: Array) -> Array:
        scale = np.abs(x).max() * share / most
        return np.asarray(rounded(np.clip(x / scale, least, most)) * scale)

    return change


INPUTS: dict[str, Callable[[Array], Array]] = {
    "int8 with a scale for each position": scaled(127, np.rint, -1),
    "int8 with one scale": scaled(127, np.rint, None),
    "FP8 (E4M3) with a scale for each position": scaled(448, to_fp8, -1),
    "rounded to bfloat16": lambda x: np.float32(x).astype(ml_dtypes.bfloat16).astype(np.float64),
    "int8 with one scale that was set beforehand": set_beforehand(127, -128, np.rint, 1.37),
    "int8 with one scale that was set beforehand, and is cut off at it": set_beforehand(127, -127, np.rint, 0.31),
    "FP8 (E4M3) with one scale that was set beforehand": set_beforehand(448, -448, to_fp8, 1.21),
    "FP8 (E4M3) with one scale that was set beforehand, and is cut off at it": set_beforehand(448, -448, to_fp8, 0.4),
}


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("words", INPUTS)
@pytest.mark.parametrize("stage", ["ffn_out", "ffn_gate"])
def test_what_a_product_reads_in_few_bits(words: str, stage: str) -> None:
    found = explanations("llama", {LAYER + stage: reading(0, lambda call: INPUTS[words](call.operands[0]))})
    assert found == said_of(f"what the product reads is {words}", stage)


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_both_factors_of_a_product_in_few_bits() -> None:
    def in_tf32(call: Call) -> Array:
        return call.compute([to_tf32(one) for one in call.operands])

    found = explanations("llama", {LAYER + "ffn_up": in_tf32})
    assert found == said_of("the product is computed in TF32: both of its factors have 10 bits behind the point", "ffn_up")


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("chunk", [1, 8])
def test_sums_in_float16(chunk: int) -> None:
    def summed(call: Call) -> Array:
        x, weight = (np.float16(one).astype(np.float64) for one in call.operands)
        total = np.zeros((len(x), len(weight)), np.float16)
        for start in range(0, x.shape[1], chunk):
            part = np.einsum("ic,rc->ir", x[:, start : start + chunk], weight[:, start : start + chunk])
            total = (total.astype(np.float64) + part).astype(np.float16)
        return total.astype(np.float64)

    each = "each product" if chunk == 1 else f"each {chunk} products"
    found = explanations("llama", {LAYER + "ffn_out": summed})
    assert found == said_of(f"the sums of the product are kept in float16, rounded behind {each}", "ffn_out")


# -- attention -----------------------------------------------------------------------------------------------------------------


def by_heads(change: Callable[[Array], Array], axis: int) -> Callable[[Array], Array]:
    """Of x [t, K · D], along an axis of [t, K, D]."""

    def changed(x: Array) -> Array:
        heads = np.moveaxis(x.reshape(len(x), 2, -1), axis, -1)
        return np.asarray(np.moveaxis(change(heads), -1, axis).reshape(x.shape))

    return changed


def least(bits: int) -> Callable[[Array], Array]:
    def change(x: Array) -> Array:
        low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
        step = (high - low) / (2**bits - 1)
        return np.asarray(np.rint((x - low) / step) * step + low)

    return change


def mlx(bits: int) -> Callable[[Array], Array]:
    """The farther edge is a level, and so is 0."""

    def row(x: Array) -> Array:
        step = (x.max() - x.min()) / (2**bits - 1)
        edge = x.max() if x.max() >= -x.min() else x.min()
        step = -step if edge > 0 else step
        count = np.rint(edge / step)
        step, bias = (edge / count, edge) if count else (step, 0.0)
        return np.asarray(np.clip(np.rint((x - bias) / step), 0, 2**bits - 1) * step + bias)

    return lambda x: np.apply_along_axis(row, -1, x)


CACHES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "4 bits with a scale and a least value for each position and head": (by_heads(least(4), 2),) * 2,
    "4 bits with a scale and a bias as MLX chooses them for each position and head": (by_heads(mlx(4), 2),) * 2,
    "uint8 with a scale and a bias as MLX chooses them for each position and head": (by_heads(mlx(8), 2),) * 2,
    "2 bits with a scale and a least value, k's for each channel and v's for each position and head": (
        by_heads(least(2), 0),
        by_heads(least(2), 2),
    ),
}


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize("words", CACHES)
@pytest.mark.parametrize("taps", ["all", "attn_norm,attn_out"])
def test_a_cache_with_least_values(words: str, taps: str) -> None:
    of_k, of_v = CACHES[words]
    nodes: dict[str, Patch] = {
        LAYER + "attn_scores": reading(1, lambda call: of_k(call.operands[1])),
        LAYER + "attention": reading(1, lambda call: of_v(call.operands[1])),
    }
    stages = ("attn_scores", "attention") if taps == "all" else ("attn_out",)
    assert explanations("llama", nodes, taps) == said_of(f"k and v of the KV cache are {words}", *stages)


@pytest.mark.contract("BLAME-EXPLAINED-5")
@pytest.mark.parametrize(("stage", "which"), [("attn_scores", "k"), ("attention", "v")])
def test_a_cache_with_a_scale_that_was_set_beforehand(stage: str, which: str) -> None:
    kept = set_beforehand(448, -448, to_fp8, 1.3)
    found = explanations("llama", {LAYER + stage: reading(1, lambda call: kept(call.operands[1]))})
    assert found == said_of(f"{which} of the KV cache is FP8 (E4M3) with one scale that was set beforehand", stage)


@pytest.mark.contract("BLAME-EXPLAINED-5")
def test_a_softmax_in_half_precision() -> None:
    def taken(call: Call) -> Array:
        value = call.compute([np.float16(call.operands[0]).astype(np.float64), *call.operands[1:]])
        return np.float16(value).astype(np.float64)

    words = "the softmax is taken in float16: scores and weights are rounded"
    assert explanations("llama", {LAYER + "attn_softmax": taken}) == said_of(words, "attn_softmax")
    # Without the scores, and what is mixed: it is still told.
    found = explanations("llama", {LAYER + "attn_softmax": taken}, "q_post_rope,k_post_rope,attn_softmax")
    assert found == said_of(words, "attn_softmax")
