"""Faults of multi-head latent attention."""

from __future__ import annotations

import math

import numpy as np

from aprgraph.graph.families.latent_attention import LatentAttention
from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import left_out, reading
from tests.zoo.faults.places import each_layer, each_layer_weight, having
from tests.zoo.planting import Call, Fault, Stored
from tests.zoo.subjects import Subject


def _family(subject: Subject) -> LatentAttention:
    family = subject.model.family
    assert isinstance(family, LatentAttention)
    return family


def _first_elements(call: Call) -> Array:
    """The first elements of each head of q, in place of the last."""
    heads = call.node.attr_int("heads")
    q = call.near("q_matmul")
    return q.reshape(len(q), heads, -1)[..., : call.node.attr_int("head_size")].reshape(len(q), -1)


def _by_the_size_in_the_cache(call: Call) -> Array:
    """Scores are divided by the root of the size of what is multiplied, not of the head that it stands for."""
    family = _family(call.subject)
    return call.compute(scale=call.node.attr_float("scale") * math.sqrt(family.head_size / (family.kv_rank + family.turned)))


def _without_sharpening(call: Call) -> Array:
    return call.compute(scale=1 / math.sqrt(_family(call.subject).head_size))


def _is_sharpened(subject: Subject, _layer: int) -> bool:
    family = subject.model.family
    return isinstance(family, LatentAttention) and family.scale != 1 / math.sqrt(family.head_size)


def _other_way_round(stored: Stored) -> Array:
    """Each head's matrix as if it had the rows of q first."""
    return np.asarray(stored.right.swapaxes(-1, -2).reshape(stored.right.shape))


FAULTS = (
    Fault(
        "norm of the latent forgotten",
        "graph",
        "Keys and values are made of a latent that was not normalised.",
        each_layer({"kv_a_norm": left_out}, "kv_a_norm"),
    ),
    Fault(
        "RoPE on the first elements",
        "graph",
        "RoPE turns the first elements of each head of q, where the last are those that have positions.",
        each_layer({"q_pe": reading(0, _first_elements)}, "q_pe"),
    ),
    Fault(
        "scale by the size in the cache",
        "graph",
        "Scores are divided by the root of the latent's size, and not of the head's that it stands for.",
        each_layer({"attn_scores": _by_the_size_in_the_cache}, "attn_scores", when=having("q_absorbed")),
    ),
    Fault(
        "YaRN's factor of the scores forgotten",
        "graph",
        "Scores are not multiplied by the square of YaRN's temperature.",
        each_layer({"attn_scores": _without_sharpening}, "attn_scores", when=_is_sharpened),
        seen="ggml-org/llama.cpp#17945",
    ),
    Fault(
        "matrices of k the other way round",
        "weights",
        "Each head's matrix of k is read with rows and columns exchanged.",
        each_layer_weight(("attn_k_b.weight",), _other_way_round, "q_absorbed"),
    ),
)
