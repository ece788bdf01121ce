"""Faults of embedding models: how positions are pooled, what comes behind, and a mask that is not theirs."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import is_causal, is_symmetric
from tests.zoo.faults.attention import ALL
from tests.zoo.faults.patches import left_out, reading, with_attrs
from tests.zoo.faults.places import Sites, each_layer, having, once, where
from tests.zoo.planting import Call, Fault, Patch
from tests.zoo.subjects import Subject


def _pooled(op: str, patch: Patch) -> Sites:
    """The pooling, where ``op`` does it."""
    return where(lambda subject: any(node.stage == "pooled" for node in subject.graph.with_op(op)), once({"pooled": patch}, "pooled"))


def _with_padding(call: Call) -> Array:
    """Positions of padding, whose rows are as those of the last token here, take part."""
    rows = call.operands[0]
    return np.concatenate([rows, rows[-1:], rows[-1:]])


def _norm_before_the_sum(call: Call) -> Array:
    out = call.near("attn_out")
    return call.compute([out, *call.operands[1:]]) + call.operands[0] - out


def _is_bidirectional(subject: Subject, layer: int) -> bool:
    return not is_causal(subject.graph[f"layer{layer}.attn_scores"].attrs)


def _reaches_both_ways(subject: Subject, layer: int) -> bool:
    return is_symmetric(subject.graph[f"layer{layer}.attn_scores"].attrs)


FAULTS = (
    Fault(
        "causal mask in an embedding model",
        "graph",
        "No position attends to later ones, where all should.",
        each_layer(dict.fromkeys(ALL[:2], with_attrs(causal=True, symmetric=False)), *ALL[:2], when=_is_bidirectional),
    ),
    Fault(
        "window to one side",
        "graph",
        "A window that should reach half of its size to either side bounds earlier positions alone, with its whole size.",
        each_layer(dict.fromkeys(ALL, with_attrs(symmetric=False)), *ALL, when=_reaches_both_ways),
    ),
    Fault(
        "window twice as wide",
        "graph",
        "A window reaches its whole size to either side, and not half of it.",
        each_layer(dict.fromkeys(ALL, lambda call: call.compute(window=2 * call.node.attr_int("window"))), *ALL, when=_reaches_both_ways),
    ),
    Fault(
        "padding in the mean",
        "graph",
        "The mean is taken over positions of padding too.",
        _pooled("mean_rows", reading(0, _with_padding)),
    ),
    Fault(
        "mean without the first position",
        "graph",
        "The position of the token that begins the text is left out of the mean.",
        _pooled("mean_rows", reading(0, lambda call: call.operands[0][1:])),
    ),
    Fault(
        "first position for the mean",
        "graph",
        "The embedding is that of the first position, where the mean should be.",
        _pooled("mean_rows", lambda call: call.compute_as("first_row", call.operands)),
    ),
    Fault(
        "mean for the first position",
        "graph",
        "The embedding is the mean, where the first position should be.",
        _pooled("first_row", lambda call: call.compute_as("mean_rows", call.operands)),
    ),
    Fault(
        "last position for the first",
        "graph",
        "The embedding is that of the last position, where the first should be.",
        _pooled("first_row", lambda call: call.compute_as("last_row", call.operands)),
    ),
    Fault(
        "first position for the last",
        "graph",
        "The embedding is that of the first position, where the last should be.",
        _pooled("last_row", lambda call: call.compute_as("first_row", call.operands)),
    ),
    Fault(
        "mean for the last position",
        "graph",
        "The embedding is the mean, where the last position should be.",
        _pooled("last_row", lambda call: call.compute_as("mean_rows", call.operands)),
    ),
    Fault(
        "token of the end forgotten",
        "graph",
        "The last position is not that of the token that ends the text, but the one before: a padding counted from the wrong side.",
        _pooled("last_row", reading(0, lambda call: call.operands[0][:-1])),
    ),
    Fault(
        "token types forgotten",
        "graph",
        "The embedding of the first type is not added to that of each token.",
        once({"layer0.embedding_of_types": left_out}, "embedding"),
    ),
    Fault(
        "positions behind the padding",
        "input",
        "Positions are counted from 2, as rows of RoBERTa's checkpoints are, where conversion has taken the first two away.",
        once({"layer0.embedding_of_positions": reading(0, lambda call: call.operands[0] + 2)}, "embedding"),
    ),
    Fault(
        "norm of the embedding forgotten",
        "graph",
        "The first layer is given the embedding as it is.",
        once({"layer0.embedding_norm": left_out}, "embedding_norm"),
    ),
    Fault(
        "norm before the sum",
        "graph",
        "The output of attention is normalised before the hidden state is added to it, and not their sum.",
        each_layer({"ffn_norm": _norm_before_the_sum}, "ffn_norm", when=having("layer_out_norm")),
    ),
    Fault(
        "residual from before the norm",
        "graph",
        "The network's output is added to the sum before its norm, as in models whose norms come first.",
        each_layer(
            {"post_ffn_residual": reading(0, lambda call: call.near("post_attn_residual"))},
            "post_ffn_residual",
            when=having("layer_out_norm"),
        ),
    ),
    Fault("length not 1", "graph", "The embedding keeps the length that it has.", once({"pooled_normed": left_out}, "pooled_normed")),
)
