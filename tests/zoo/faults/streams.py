"""Faults of a hidden state of several streams, of a second residual connection, and of gates that are cut off (Gemma 3n)."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import left_out, reading, with_attrs
from tests.zoo.faults.places import each_layer, once
from tests.zoo.planting import Call, Fault
from tests.zoo.subjects import Subject


def _transposed(coefs: Array) -> Array:
    """What goes from stream i to stream j in place of what goes from j to i."""
    size = int(coefs.shape[1] ** 0.5)
    return np.ascontiguousarray(coefs.reshape(len(coefs), size, size).swapaxes(1, 2)).reshape(coefs.shape)


def _of_the_second_stream(call: Call) -> Array:
    size = call.node.attr_int("stop") - call.node.attr_int("start")
    return call.compute(start=size, stop=2 * size)


def _without_the_one(call: Call) -> Array:
    streams, activated, coefs = call.operands
    return call.compute([streams, activated, coefs - 1])


def _cut(call: Call) -> Array:
    """The activation of the gate above the bound of layers that have one."""
    node = call.subject.graph.with_op("gaussian_top_k")[0]
    return call.compute([call.compute_as("gaussian_top_k", call.operands, **node.attrs)])


def _is_whole(subject: Subject, layer: int) -> bool:
    """Whether the gate of a layer is left as it is, in a model in which others are cut off."""
    return bool(subject.graph.with_op("gaussian_top_k")) and f"layer{layer}.ffn_gate_sparse" not in subject.graph


FAULTS = (
    Fault(
        "streams without their rescaling",
        "graph",
        "The streams that are made of the embedding do not get its magnitude.",
        once({"altup_rescaled": left_out}, "altup_embedding"),
    ),
    Fault(
        "streams not predicted",
        "graph",
        "A layer works on the streams as the one before left them.",
        each_layer({"altup_predicted": left_out}, "altup_predicted"),
    ),
    Fault(
        "prediction transposed",
        "kernel",
        "What is to go from one stream to another goes the other way.",
        each_layer({"altup_predicted": reading(1, lambda call: _transposed(call.operands[1]))}, "altup_predicted"),
    ),
    Fault(
        "router of streams not scaled",
        "graph",
        "What the router of streams reads is not divided by the hidden size.",
        each_layer({"altup_predict_scaled": left_out}, "altup_predict_router"),
    ),
    Fault(
        "router of streams without tanh",
        "graph",
        "The correction is made of the router's scores themselves.",
        each_layer({"altup_correct_router": left_out}, "altup_correct_router"),
    ),
    Fault(
        "layer works on another stream",
        "graph",
        "A layer works on the second stream in place of the first.",
        each_layer({"altup_active": _of_the_second_stream}, "altup_active"),
    ),
    Fault(
        "correction by another stream",
        "kernel",
        "What a layer changed is taken to be the difference to another stream than it worked on.",
        each_layer({"altup_corrected": with_attrs(active=2)}, "altup_corrected"),
    ),
    Fault(
        "correction without the one",
        "kernel",
        "Streams are corrected by their numbers, and not by one more.",
        each_layer({"altup_corrected": _without_the_one}, "altup_corrected"),
    ),
    Fault(
        "corrected stream not scaled",
        "graph",
        "The gate of the token reads the stream without its scale.",
        each_layer({"altup_scaled": left_out}, "altup_scaled"),
    ),
    Fault(
        "token in the first stream",
        "graph",
        "What a layer makes of the token is added to the first stream too.",
        each_layer({"altup_out": with_attrs(start=0)}, "altup_out"),
    ),
    Fault(
        "merged streams without their rescaling",
        "graph",
        "Behind the last layer the projections of streams do not get the magnitude of the first.",
        once({"altup_unembedded_rescaled": left_out}, "altup_merged"),
    ),
    Fault(
        "first stream alone",
        "graph",
        "Behind the last layer the other streams are dropped.",
        once(
            {"altup_merged": lambda call: call.operands[0][:, : call.operands[0].shape[1] // call.node.attr_int("streams")]}, "altup_merged"
        ),
    ),
    Fault(
        "second residual forgotten",
        "graph",
        "What LAuReL gives is not added.",
        each_layer({"laurel_sum": left_out}, "laurel_residual"),
    ),
    Fault(
        "second residual without its input",
        "graph",
        "LAuReL gives its projection of low rank alone.",
        each_layer({"laurel_out": lambda call: call.operands[1]}, "laurel_out"),
    ),
    Fault(
        "sum of residuals not divided",
        "graph",
        "The sum of both residual connections is not divided by the root of two.",
        each_layer({"laurel_residual": left_out}, "laurel_residual"),
    ),
    Fault(
        "gate not cut off",
        "graph",
        "The whole gate takes part in a layer in which a share should.",
        each_layer({"ffn_gate_sparse": left_out}, "ffn_gate_sparse"),
    ),
    Fault(
        "gate cut off in every layer",
        "graph",
        "The gate is cut off in a layer that has no bound.",
        each_layer({"ffn_silu": _cut}, "ffn_silu", when=_is_whole),
    ),
    Fault(
        "deviation of a sample",
        "kernel",
        "The variance of the gate is divided by one less than the number of its elements.",
        each_layer({"ffn_gate_sparse": with_attrs(sample=True)}, "ffn_gate_sparse"),
    ),
)
