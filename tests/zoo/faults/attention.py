"""Faults of attention: masks, scales, heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import cap_of, is_causal, is_chunked, is_symmetric, mask_of, value_size_of
from tests.zoo.faults.patches import reading, then, with_attrs
from tests.zoo.faults.places import Condition, Sites, anywhere, each_layer, either, where
from tests.zoo.planting import Call, Fault, Patch
from tests.zoo.subjects import LARGE_SCORES, Subject

#: The stages of attention between q, k and v and the output projection.
ALL = ("attn_scores", "attn_softmax", "attention")
#: From a right mask [n, t] to a wrong one.
Mask = Callable[[Array], Array]


def _mask_of(call: Call, wrong: Mask) -> Array:
    keys = call.subject.graph.operand_names(f"layer{call.node.layer}.attn_scores")[1]
    n, t = len(call.values["positions"]), call.values[keys].shape[0]
    return wrong(mask_of(n, t, call.node.attrs))


def _exponentials(call: Call, mask: Array, *, largest_subtracted: bool = True) -> tuple[Array, Array]:
    """exp of the scores that ``mask`` [n, t] leaves, 0 elsewhere, and their sums, in which a head's sink takes part."""
    scores, *sinks = call.operands
    logits = [np.where(mask, scores, -np.inf), *(np.broadcast_to(sink[:, None, None], (*scores.shape[:2], 1)) for sink in sinks)]
    joined = np.concatenate(logits, axis=-1)
    weights = np.exp(joined - joined.max(axis=-1, keepdims=True) if largest_subtracted else joined)
    return weights[..., : scores.shape[-1]], weights.sum(axis=-1, keepdims=True)


def _masked(wrong: Mask) -> dict[str, Patch]:
    """Scores, softmax and mix under another mask."""

    def scores(call: Call) -> Array:
        q, k = call.operands
        heads, kv_heads = call.node.attr_int("heads"), call.node.attr_int("kv_heads")
        keys = np.repeat(k.reshape(len(k), kv_heads, -1), heads // kv_heads, axis=1)
        product = np.einsum("nhd,thd->hnt", q.reshape(len(q), heads, -1), keys) * np.float32(call.node.attr_float("scale"))
        cap = cap_of(call.node.attrs)
        return np.where(_mask_of(call, wrong), cap * np.tanh(product / cap) if cap else product, 0.0)

    def softmax(call: Call) -> Array:
        weights, sums = _exponentials(call, _mask_of(call, wrong))
        return np.asarray(weights / sums)

    def mix(call: Call) -> Array:
        weights, v = call.operands
        kv_heads = call.node.attr_int("kv_heads")
        size = v.shape[1] // kv_heads
        taken = v.reshape(len(v), kv_heads, size)[..., : value_size_of(call.node.attrs, size)]
        values = np.repeat(taken, len(weights) // kv_heads, axis=1)
        return np.einsum("hnt,thd->nhd", np.where(_mask_of(call, wrong), weights, 0.0), values).reshape(weights.shape[1], -1)

    return {"attn_scores": scores, "attn_softmax": softmax, "attention": mix}


def _of_attention(patches: Mapping[str, Patch], *stages: str, when: Condition = anywhere) -> Sites:
    """Faults of a layer's scores, softmax and mix, which latent attention may have over the latent."""
    names = {name: "attn_latent" if name == "attention" else name for name in ALL}
    over_latent = each_layer({names[name]: patch for name, patch in patches.items()}, *(names[stage] for stage in stages), when=when)
    return either(where(lambda subject: "layer0.attn_latent" in subject.graph, over_latent), each_layer(patches, *stages, when=when))


def _has_groups(subject: Subject, layer: int) -> bool:
    """Whether there are several KV heads, and more query heads."""
    node = subject.graph[f"layer{layer}.attn_scores"]
    return 1 < node.attr_int("kv_heads") < node.attr_int("heads")


def _is_scaled(subject: Subject, layer: int) -> bool:
    return subject.graph[f"layer{layer}.attn_scores"].attr_float("scale") != 1.0


def _by_root_of_size(call: Call) -> Array:
    return call.compute(scale=(call.operands[0].shape[1] // call.node.attr_int("heads")) ** -0.5)


def _sees_one_ahead(mask: Array) -> Array:
    ahead = mask.copy()
    ahead[:, 1:] |= mask[:, :-1]
    return ahead


def _without_itself(mask: Array) -> Array:
    """No query sees its own key, but for the first, which would see nothing."""
    hidden = mask.copy()
    index = np.arange(1, len(mask))
    hidden[index, index + mask.shape[1] - len(mask)] = False
    return hidden


def _first(patches: dict[str, Patch], *names: str) -> dict[str, Patch]:
    return {name: patches[name] for name in names}


def _window(more: int) -> Patch:
    """A window of ``more`` positions more, to either side where it reaches to both."""
    return lambda call: call.compute(window=call.node.attr_int("window") + more * (1 + is_symmetric(call.node.attrs)))


def _has_window(subject: Subject, layer: int) -> bool:
    return subject.graph[f"layer{layer}.attn_scores"].attr_int("window") > 0


def _has_chunks(subject: Subject, layer: int) -> bool:
    return is_chunked(subject.graph[f"layer{layer}.attn_scores"].attrs)


def _hides_the_next(subject: Subject, layer: int) -> bool:
    """Whether a query sees no key beyond some place, so that one more shows."""
    attrs = subject.graph[f"layer{layer}.attn_scores"].attrs
    return is_causal(attrs) or is_symmetric(attrs)


def _sees_everything(subject: Subject, layer: int) -> bool:
    """Whether the model has windows, and this layer none."""
    return any(subject.model.family.windows) and not _has_window(subject, layer)


def _interleaved(index: int, heads: Callable[[Call], int]) -> Patch:
    """KV heads are taken in turn, h mod K, where each serves H / K query heads that lie side by side."""

    def in_turn(call: Call) -> Array:
        kv_heads = call.node.attr_int("kv_heads")
        rows = call.operands[index]
        per_head = rows.reshape(len(rows), kv_heads, -1)
        return per_head[:, np.arange(heads(call)) % kv_heads].reshape(len(rows), -1)

    def patch(call: Call) -> Array:
        operands = [in_turn(call) if i == index else operand for i, operand in enumerate(call.operands)]
        return call.compute(operands, kv_heads=heads(call))

    return patch


SCORES_IN_TURN = _interleaved(1, lambda call: call.node.attr_int("heads"))
_MIX_IN_TURN = _interleaved(1, lambda call: len(call.operands[0]))


def _overflowing_softmax(call: Call) -> Array:
    weights, sums = _exponentials(call, _mask_of(call, lambda mask: mask), largest_subtracted=False)
    return np.asarray(weights / sums)


def _is_capped(subject: Subject, layer: int) -> bool:
    return cap_of(subject.graph[f"layer{layer}.attn_scores"].attrs) > 0


def _has_large_scores(subject: Subject, layer: int) -> bool:
    norm = f"layer{layer}.q_norm"
    is_bounded = norm in subject.graph and len(subject.graph.operand_names(norm)) == 1  # no weight makes such heads longer
    is_bounded = is_bounded or f"layer{layer}.qkv_clipped" in subject.graph
    return subject.variant == LARGE_SCORES[layer] and not _is_capped(subject, layer) and not is_bounded


def _has_sinks(subject: Subject, layer: int) -> bool:
    return len(subject.graph.operand_names(f"layer{layer}.attn_softmax")) > 1


def _unnormalised_softmax(call: Call) -> Array:
    return _exponentials(call, _mask_of(call, lambda mask: mask))[0]


def _scaled(change: Callable[[float], float]) -> Patch:
    return lambda call: call.compute(scale=change(call.node.attr_float("scale")))


def _soft_cap(scores: Array) -> Array:
    return np.asarray(50 * np.tanh(scores / 50))


#: Families with each kind of mask, norm and RoPE that attention has, of many that could have a fault.
_KINDS = ("llama", "qwen3", "gemma2", "phi3", "gpt2", "bert")


def _capped_mask(call: Call) -> Array:
    """Scores with minus the cap at masked places: cap · tanh(-inf / cap)."""
    seen, cap = _mask_of(call, lambda mask: mask), np.float32(cap_of(call.node.attrs))
    return np.where(seen, call.compute(), -cap)


def _softmax_over_heads(call: Call) -> Array:
    weights = np.exp(call.operands[0] - call.operands[0].max(axis=0))
    return np.where(_mask_of(call, lambda mask: mask), weights / weights.sum(axis=0), 0.0)


def _has_no_sinks(subject: Subject, layer: int) -> bool:
    return not _has_sinks(subject, layer)


def _with_padding(call: Call) -> Array:
    """Weights of keys before which three more lie, each with the score of the query's first."""
    largest = np.where(_mask_of(call, lambda mask: mask), call.operands[0], -np.inf).max(axis=-1, keepdims=True)
    sums = np.where(_mask_of(call, lambda mask: mask), np.exp(call.operands[0] - largest), 0.0).sum(axis=-1, keepdims=True)
    return np.asarray(call.compute() * sums / (sums + 3 * np.exp(call.operands[0][..., :1] - largest)))


def _is_plainly_causal(subject: Subject, layer: int) -> bool:
    """Whether queries see all keys before them, and no sinks."""
    attrs, mix = subject.graph[f"layer{layer}.attn_scores"].attrs, subject.graph[f"layer{layer}.attention"]
    return is_causal(attrs) and not attrs["window"] and not _has_sinks(subject, layer) and mix.op == "attn_mix"


def _mix_with_padding(call: Call) -> Array:
    """What the weights lack of 1 is the weight of padding, whose value is minus the first one."""
    weights, v = call.operands
    rest = 1 - weights.sum(axis=-1, keepdims=True)
    seen = np.concatenate([weights, rest], axis=-1)
    return call.compute([seen, np.concatenate([v, -v[:1]])], causal=False, window=0)


def _normed_values(call: Call) -> Array:
    weights, v = call.operands
    heads = v.reshape(len(v), call.node.attr_int("kv_heads"), -1)
    normed = heads / np.sqrt(np.square(heads).mean(axis=-1, keepdims=True) + np.float32(call.subject.model.family.eps))
    return call.compute([weights, normed.reshape(v.shape)])


def _turned_values(call: Call) -> Array:
    weights, v = call.operands
    graph = call.subject.graph
    rope = graph[f"layer{call.node.layer}.k_post_rope"]
    table = call.values[graph.operand_names(rope.name)[1]]
    turned = call.compute_as("rope", [v, table], **{**rope.attrs, "heads": call.node.attr_int("kv_heads"), "start": 0})
    return call.compute([weights, turned])


def _has_like_values(subject: Subject, layer: int) -> bool:
    """Whether heads of v have the size of those that RoPE turns as k, and are not normalised already."""
    name = f"layer{layer}.k_post_rope"
    if name not in subject.graph or f"layer{layer}.v_norm" in subject.graph or subject.graph[f"layer{layer}.attention"].op != "attn_mix":
        return False
    rope, mix = subject.graph[name], subject.graph[f"layer{layer}.attention"]
    columns = subject.graph.operands(mix.name)[1].type.dims[1]
    return rope.op == "rope" and columns == mix.attr_int("kv_heads") * rope.attr_int("head_size")


FAULTS = (
    Fault(
        "mask one ahead",
        "kernel",
        "Every query sees the key after its own.",
        _of_attention(_masked(_sees_one_ahead), *ALL, when=_hides_the_next),
    ),
    Fault(
        "mask one behind",
        "kernel",
        "No query sees its own key.",
        each_layer(_first(_masked(_without_itself), "attn_scores", "attn_softmax"), "attn_scores", "attn_softmax"),
    ),
    Fault(
        "window one wider",
        "graph",
        "A sliding window of one position more.",
        each_layer(dict.fromkeys(ALL, _window(1)), *ALL, when=_has_window),
        seen="NVIDIA-NeMo/Megatron-Bridge#2656",
    ),
    Fault(
        "window one narrower",
        "graph",
        "A sliding window of one position less.",
        each_layer(dict.fromkeys(ALL[:2], _window(-1)), *ALL[:2], when=_has_window),
    ),
    Fault(
        "window forgotten",
        "graph",
        "A layer with a sliding window sees everything.",
        each_layer(dict.fromkeys(ALL, with_attrs(window=0)), *ALL, when=_has_window),
        seen="keras-team/keras-hub#2186",
    ),
    Fault(
        "window in place of chunks",
        "graph",
        "Positions see as many before them as a chunk has, also across its border.",
        each_layer(dict.fromkeys(ALL, with_attrs(chunked=False)), *ALL, when=_has_chunks),
    ),
    Fault(
        "window in the wrong layer",
        "graph",
        "A layer that sees everything gets the window of the others.",
        each_layer(
            dict.fromkeys(ALL[:2], lambda call: call.compute(window=max(call.subject.model.family.windows))),
            *ALL[:2],
            when=_sees_everything,
        ),
    ),
    Fault(
        "scale by D",
        "graph",
        "Scores are divided by D and not by its root.",
        each_layer({"attn_scores": _scaled(lambda scale: scale * scale)}, "attn_scores", when=_is_scaled),
    ),
    Fault(
        "scale forgotten",
        "graph",
        "Scores are not scaled.",
        each_layer({"attn_scores": with_attrs(scale=1.0)}, "attn_scores", when=_is_scaled),
    ),
    Fault(
        "scale where there is none",
        "graph",
        "Scores are divided by the root of D, where the norms of q and k are all that keeps them small.",
        each_layer({"attn_scores": _by_root_of_size}, "attn_scores", when=lambda subject, layer: not _is_scaled(subject, layer)),
    ),
    Fault(
        "soft cap of the scores forgotten",
        "graph",
        "Scores are not capped.",
        each_layer({"attn_scores": with_attrs(cap=0.0)}, "attn_scores", when=_is_capped),
    ),
    Fault(
        "soft cap of Gemma 2",
        "graph",
        "Scores go through 50 · tanh(s / 50), as in Gemma 2, where Gemma 3 has the norms of q and k instead.",
        each_layer({"attn_scores": then(_soft_cap)}, "attn_scores"),
        families=("gemma3",),  # whose code came from Gemma 2's
        seen="ggml-org/llama.cpp#21613",
    ),
    Fault(
        "soft cap after the mask",
        "graph",
        "Scores are capped when they are masked already, so that masked keys have minus the cap, and are seen.",
        each_layer({"attn_scores": _capped_mask, **dict.fromkeys(ALL[1:], with_attrs(causal=False, window=0))}, *ALL, when=_is_capped),
        seen="onnx/onnx#7865",
    ),
    Fault(
        "GQA heads in turn",
        "kernel",
        "Query head h reads KV head h mod K in place of h / (H / K).",
        each_layer({"attn_scores": SCORES_IN_TURN, "attention": _MIX_IN_TURN}, "attn_scores", "attention", when=_has_groups),
        seen="ekzhang/jax-js#180",
    ),
    Fault(
        "GQA heads of v in turn",
        "kernel",
        "The same for v alone.",
        each_layer({"attention": _MIX_IN_TURN}, "attention", when=_has_groups),
    ),
    Fault(
        "softmax overflows",
        "kernel",
        "exp without the largest score subtracted: Inf / Inf where scores are beyond 88.7.",
        each_layer({"attn_softmax": _overflowing_softmax}, "attn_softmax", when=_has_large_scores),
        variants=LARGE_SCORES,
    ),
    Fault(
        "softmax not normalised",
        "kernel",
        "exp without the division by the sum.",
        each_layer({"attn_softmax": _unnormalised_softmax}, "attn_softmax"),
    ),
    Fault(
        "softmax over heads",
        "kernel",
        "The softmax goes over the heads of a key, and not over the keys.",
        each_layer({"attn_softmax": _softmax_over_heads}, "attn_softmax", when=_has_no_sinks),
        seen="nerdai/llms-from-scratch-rs#30",
        families=_KINDS,
    ),
    Fault(
        "softmax twice",
        "graph",
        "The softmax is taken of its own result.",
        each_layer({"attn_softmax": lambda call: call.compute([call.compute(), *call.operands[1:]])}, "attn_softmax"),
        families=_KINDS,
    ),
    Fault(
        "padding attended to",
        "input",
        "Three positions of padding, which are not recorded, lie before the prompt, and every query sees them.",
        each_layer({"attn_softmax": _with_padding, "attention": _mix_with_padding}, "attn_softmax", "attention", when=_is_plainly_causal),
        seen="unslothai/unsloth#3699",
        families=_KINDS,
    ),
    Fault(
        "sinks forgotten",
        "graph",
        "The softmax runs over the scores alone, without the head's sink.",
        each_layer({"attn_softmax": lambda call: call.compute(call.operands[:1])}, "attn_softmax", when=_has_sinks),
    ),
    Fault(
        "v before its neighbour",
        "kernel",
        "The values of the row before are mixed: v is read one position late.",
        _of_attention({"attention": reading(1, lambda call: np.roll(call.operands[1], 1, axis=0))}, "attention"),
    ),
    Fault(
        "v normalised",
        "graph",
        "Each head of v is normalised, as those of q and k are.",
        each_layer({"attention": _normed_values}, "attention", when=_has_like_values),
        families=_KINDS,
    ),
    Fault(
        "v turned",
        "graph",
        "v is turned by RoPE, as q and k are.",
        each_layer({"attention": _turned_values}, "attention", when=_has_like_values),
        families=_KINDS,
    ),
)
