"""Attention in three stages, with grouped-query heads (Ainslie et al. 2023, arXiv:2305.13245).

A query at row i of n stands at position p = t - n + i and attends to the keys 0 .. p, so that the same op serves a
prefill (t = n) and a later step; with a sliding window of w > 0 to the keys p - w + 1 .. p (Beltagy et al. 2020,
arXiv:2004.05150). If the window is `chunked` (Llama 4), positions come in chunks of w, and a query attends to those of its
own chunk: the keys p - p mod w .. p. If it is not `causal` (embedding models: BehnamGhader et al. 2024, arXiv:2404.05961), it attends to
later keys as well, all of them: as in llama.cpp, a window then bounds what lies before alone, unless it is `symmetric`: a
window of w then reaches w / 2 positions, rounded down, to either side (EmbeddingGemma, arXiv:2509.20354). Masked positions
hold exactly 0 and are never read.

Heads of v, and so those of the result, may have another size than those of q and k. They may be the first `value_size`
elements of each head of what is given as v: where keys and values are one tensor, as in multi-head latent attention
(DeepSeek-V2, arXiv:2405.04434), that is the tensor of the keys. Scores may be capped softly, to
`cap` at most (Gemma 2, arXiv:2408.00118). Each head may have a sink: a logit beside its scores, which takes its part of
the softmax and adds nothing to the result (Xiao et al. 2023, arXiv:2309.17453; gpt-oss, arXiv:2508.10925).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.ir import Attr, Dim, Graph, Node, TensorType
from aprgraph.graph.ops.arithmetic import Float64
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.elementwise import SOFT_CAP
from aprgraph.graph.ops.traits import Traits

#: What an attribute is that a graph does not name: of the mask, and of the scores, where a cap of 0 is none.
DEFAULTS: Mapping[str, Attr] = {"causal": True, "chunked": False, "symmetric": False}
_SCORE_DEFAULTS: Mapping[str, Attr] = {**DEFAULTS, "cap": 0.0}
#: Of the mix, where a `value_size` of 0 stands for whole heads.
_MIX_DEFAULTS: Mapping[str, Attr] = {**DEFAULTS, "value_size": 0}
#: What kernels take when they are called: of the mask, and of the scores.
_MASK_NUMBERS: Mapping[str, float | None] = {"window": 0}
_SCORE_NUMBERS: Mapping[str, float | None] = {"scale": None, "cap": 0.0, **_MASK_NUMBERS}


def is_causal(attrs: Attrs) -> bool:
    """Whether no query attends to later keys."""
    return bool(attrs.get("causal", DEFAULTS["causal"]))


def is_chunked(attrs: Attrs) -> bool:
    """Whether the window is the chunk of positions in which a query stands."""
    return bool(attrs.get("chunked", DEFAULTS["chunked"]))


def is_symmetric(attrs: Attrs) -> bool:
    """Whether a window reaches as far behind a position as before it."""
    return bool(attrs.get("symmetric", DEFAULTS["symmetric"]))


def reach_of(attrs: Attrs) -> int:
    """How many positions a text may have before a window hides any of them from another, 0 where there is no window."""
    window = integer(attrs, "window")
    return window // 2 + 1 if window and is_symmetric(attrs) else window


def scores_by_layer(graph: Graph) -> Mapping[int | None, Node]:
    """By layer, the node of the scores: its attributes say how many heads there are, and what they attend to."""
    return graph.by_layer("attn_scores")


def cap_of(attrs: Attrs) -> float:
    """The soft cap of scores, 0 for none."""
    return number({**_SCORE_DEFAULTS, **attrs}, "cap")


def value_size_of(attrs: Attrs, size: int) -> int:
    """How many elements of each head of v are mixed, of heads of ``size`` elements."""
    return integer({**_MIX_DEFAULTS, **attrs}, "value_size") or size


def attention_mask(n: int, t: int, window: int, *, causal: bool = True, chunked: bool = False, symmetric: bool = False) -> Array:
    """bool [n, t]: whether query i may attend to key j."""
    keys, positions = np.arange(t)[None, :], np.arange(n)[:, None] + (t - n)
    if window and symmetric:
        return np.asarray(np.abs(keys - positions) <= window // 2)
    seen = (keys <= positions) if causal else np.ones((n, t), bool)
    if not window:
        return seen
    return seen & (keys >= positions - positions % window if chunked else keys > positions - window)


def mask_of(n: int, t: int, attrs: Attrs) -> Array:
    """The mask of an attention op with the attributes ``attrs``."""
    kinds = {"causal": is_causal(attrs), "chunked": is_chunked(attrs), "symmetric": is_symmetric(attrs)}
    return attention_mask(n, t, integer(attrs, "window"), **kinds)


def _check_window(attrs: Attrs) -> None:
    require(integer(attrs, "window") >= 0, f"window is {attrs['window']}, expected a number of positions, or 0 for none")
    require(is_causal(attrs) or not is_chunked(attrs), "attention is chunked and not causal; expected one of both")
    require(not (is_symmetric(attrs) and is_causal(attrs)), "symmetric is true, and so is causal: expected one of them")


def _heads(columns: Dim, heads: int, what: str) -> int:
    size = width(columns, what)
    require(heads >= 1 and size % heads == 0, f"{what}: {size} columns do not divide into {heads} heads")
    return size // heads


def _scores(types: Types, attrs: Attrs) -> TensorType:
    heads, kv_heads = integer(attrs, "heads"), integer(attrs, "kv_heads")
    _check_window(attrs)
    n, q_columns = activation(2, types[0], "q")
    t, k_columns = activation(2, types[1], "k")
    q_size, k_size = _heads(q_columns, heads, "q"), _heads(k_columns, kv_heads, "k")
    require(q_size == k_size, f"heads of q have {q_size} elements, heads of k {k_size}")
    require(heads % kv_heads == 0, f"{heads} query heads do not divide among {kv_heads} KV heads")
    require(cap_of(attrs) >= 0, f"cap is {cap_of(attrs)}, expected a number above 0, or 0 for none")
    return TensorType("f32", (heads, n, t))


def _scores_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    q, k = operands
    heads, kv_heads = integer(attrs, "heads"), integer(attrs, "kv_heads")
    n, t = q.shape[0], k.shape[0]
    queries = q.reshape(n, heads, -1).transpose(1, 0, 2)
    keys = np.repeat(k.reshape(t, kv_heads, -1).transpose(1, 2, 0), heads // kv_heads, axis=0)
    scores, cap = (queries @ keys) * number(attrs, "scale"), cap_of(attrs)
    if cap:
        scores = SOFT_CAP.value(Float64(), [scores], {"cap": cap})
    return np.where(mask_of(n, t, attrs), scores, 0.0)


ATTN_SCORES = Op(
    "attn_scores",
    "q · k · scale per head, cap · tanh(that / cap) if `cap` is not 0, 0 where masked: q [n, H·D], k [t, K·D] -> [H, n, t].",
    ("q", "k"),
    infer=_scores,
    reference=_scores_reference,
    attrs={"heads": int, "kv_heads": int, "scale": float, "window": int, "causal": bool, "chunked": bool, "symmetric": bool, "cap": float},
    defaults=_SCORE_DEFAULTS,
    numbers=_SCORE_NUMBERS,
    traits=Traits(sums=True, multiplied="q", attended={"k": 0}),
)


def _softmax(types: Types, attrs: Attrs) -> TensorType:
    _check_window(attrs)
    dims = activation(3, types[0], "scores")
    for sinks in types[1:]:
        require(sinks.dims == dims[:1], f"the sinks are {sinks}, but the scores are {types[0]}: expected one for each head")
        require(not weight_format(sinks).arrives_in_blocks, f"the sinks are {sinks}, expected f32, f16 or bf16")
    return TensorType("f32", dims)


def _softmax_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    scores, *sinks = operands
    heads, n, t = scores.shape
    mask = mask_of(n, t, attrs)
    logits = np.where(mask, scores, -np.inf)
    for sink in sinks:
        logits = np.concatenate([logits, np.broadcast_to(sink[:, None, None], (heads, n, 1))], axis=-1)
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    # Masked after the division: a sum that is NaN is no other query's, and 0 / NaN would be.
    return np.where(mask, exponents[..., :t] / exponents.sum(axis=-1, keepdims=True), 0.0)


ATTN_SOFTMAX = Op(
    "attn_softmax",
    "Softmax of each query's scores over the keys that it may attend to, and over its head's sink if there are sinks, 0 elsewhere: "
    "scores [H, n, t], sinks [H] -> [H, n, t].",
    ("scores", "sinks?"),
    infer=_softmax,
    reference=_softmax_reference,
    attrs={"window": int, "causal": bool, "chunked": bool, "symmetric": bool},
    defaults=DEFAULTS,
    numbers=_MASK_NUMBERS,
    traits=Traits(weights=("sinks",), attended={"scores": 2}),
)


def _mix(types: Types, attrs: Attrs) -> TensorType:
    _check_window(attrs)
    heads, n, t = activation(3, types[0], "weights")
    rows, columns = activation(2, types[1], "v")
    size = _heads(columns, integer(attrs, "kv_heads"), "v")
    require(rows == t, f"v is {types[1]}, but the weights are {types[0]}")
    count = width(heads, "heads of the weights")
    require(count % integer(attrs, "kv_heads") == 0, f"{count} query heads do not divide among {attrs['kv_heads']} KV heads")
    taken = value_size_of(attrs, size)
    require(0 < taken <= size, f"value_size is {taken}, but heads of v have {size} elements")
    return TensorType("f32", (n, count * taken))


def _mix_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    weights, v = operands
    heads, n, t = weights.shape
    kv_heads, seen = integer(attrs, "kv_heads"), mask_of(n, t, attrs)
    size = v.shape[1] // kv_heads
    taken = v.reshape(t, kv_heads, size)[..., : value_size_of(attrs, size)]
    values = np.repeat(taken.transpose(1, 0, 2), heads // kv_heads, axis=0)
    # A query never reads a masked position, so that an Inf or NaN in a later v stays there (0 · Inf is NaN).
    mixed = np.zeros((heads, n, values.shape[-1]))
    for i in range(n):
        mixed[:, i] = np.einsum("ht,htd->hd", weights[:, i, seen[i]], values[:, seen[i]])
    return mixed.transpose(1, 0, 2).reshape(n, -1)


ATTN_MIX = Op(
    "attn_mix",
    "softmax · v per head, heads side by side, v being whole heads or the first `value_size` elements of each: weights [H, n, t], "
    "v [t, K·V] -> [n, H·V].",
    ("weights", "v"),
    infer=_mix,
    reference=_mix_reference,
    attrs={"kv_heads": int, "window": int, "causal": bool, "chunked": bool, "symmetric": bool, "value_size": int},
    defaults=_MIX_DEFAULTS,
    numbers=_MASK_NUMBERS,
    traits=Traits(sums=True, multiplied="weights", attended={"weights": 2, "v": 0}),
)


def _attention(types: Types, attrs: Attrs) -> TensorType:
    q, k, v, *sinks = types
    return _mix((_softmax((_scores((q, k), attrs), *sinks), attrs), v), attrs)


def _attention_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    q, k, v, *sinks = operands
    weights = _softmax_reference([_scores_reference([q, k], attrs), *sinks], attrs)
    return _mix_reference([weights, v], attrs)


ATTENTION = Op(
    "attention",
    "attn_scores, attn_softmax and attn_mix in one, for when neither scores nor softmax is tapped: "
    "q [n, H·D], k [t, K·D], v [t, K·V], sinks [H] -> [n, H·V].",
    ("q", "k", "v", "sinks?"),
    infer=_attention,
    reference=_attention_reference,
    attrs={
        "heads": int,
        "kv_heads": int,
        "scale": float,
        "window": int,
        "causal": bool,
        "chunked": bool,
        "symmetric": bool,
        "cap": float,
        "value_size": int,
    },
    defaults={**_SCORE_DEFAULTS, **_MIX_DEFAULTS},
    numbers=_SCORE_NUMBERS,
    traits=Traits(weights=("sinks",), sums=True, attended={"k": 0, "v": 0}),
)
