"""Faults of the KV cache, which show when tokens are generated."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ops import Array
from tests.zoo.faults.places import Sites, each_layer, either, having
from tests.zoo.planting import Call, Fault, Patch
from tests.zoo.subjects import STEPS, TOKENS, Subject

_DECODED = range(1, STEPS)
#: The first decoded step alone; what it leaves in the cache is wrong in later ones.
_ONCE = range(1, 2)


def _whole(call: Call) -> Array:
    assert call.earlier is not None
    return np.concatenate([call.earlier, call.operands[0]])


def _stale(call: Call) -> Array:
    """The row of the prompt's last position is that of its second."""
    rows = _whole(call)
    rows[len(TOKENS) - 1] = rows[1]
    return rows


def _zero(call: Call) -> Array:
    """The new row was never written."""
    rows = _whole(call)
    rows[-1] = 0.0
    return rows


def _before_rope(call: Call) -> Array:
    """The new row is that of k before it is rotated."""
    rope = call.subject.graph[f"layer{call.node.layer}.k_post_rope"]
    source = call.values[call.subject.graph.operand_names(rope.name)[0]]
    start = rope.attr_int("start")
    rows = _whole(call)
    rows[-1:] = source[:, start : start + rows.shape[1]]
    return rows


def _exchanged(call: Call) -> Array:
    """Two rows of the prompt have changed places, as where a cache was moved to make room."""
    rows = _whole(call)
    last = len(TOKENS) - 1
    rows[[last - 2, last - 1]] = rows[[last - 1, last - 2]]
    return rows


def _alone(subject: Subject, layer: int) -> bool:
    """Whether no other layer reads the cache of this one."""
    caches = [f"layer{layer}.{name}" for name in ("k_cache", "v_cache", "kv_cache")]
    readers = {user.layer for name in caches if name in subject.graph for user in subject.graph.users(name)}
    return readers <= {layer}


def _keys(patch: Patch) -> Sites:
    """What the cache of k holds, which in latent attention is that of v too."""
    return either(
        each_layer({"k_cache": patch}, "attn_scores", when=_alone, steps=_ONCE, wrong_steps=_DECODED),
        each_layer({"kv_cache": patch}, "attn_scores", "attn_latent", when=_alone, steps=_ONCE, wrong_steps=_DECODED),
    )


FAULTS = (
    Fault(
        "stale key",
        "kernel",
        "A decoded step reads another position's key.",
        _keys(_stale),
        variants=("generating",),
    ),
    Fault(
        "stale value",
        "kernel",
        "A decoded step reads another position's value.",
        each_layer({"v_cache": _stale}, "attention", when=_alone, steps=_ONCE, wrong_steps=_DECODED),
        variants=("generating",),
    ),
    Fault(
        "new key not written",
        "kernel",
        "A decoded step attends to its own position before its key is in the cache.",
        _keys(_zero),
        variants=("generating",),
    ),
    Fault(
        "keys cached before RoPE",
        "graph",
        "Decoded steps leave keys in the cache that were not rotated.",
        each_layer(
            {"k_cache": _before_rope},
            "attn_scores",
            when=lambda subject, layer: having("k_post_rope")(subject, layer) and _alone(subject, layer),
            steps=_DECODED,
        ),
        variants=("generating",),
    ),
    Fault(
        "values exchanged",
        "kernel",
        "Two rows of the cache of v have changed places.",
        each_layer({"v_cache": _exchanged}, "attention", when=_alone, steps=_ONCE, wrong_steps=_DECODED),
        variants=("generating",),
    ),
)
