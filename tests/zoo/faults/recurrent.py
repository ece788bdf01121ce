"""Faults of recurrent layers and of attention with a gate."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ops import Array, traits_of
from tests.zoo.faults.patches import left_out, reading
from tests.zoo.faults.places import each_layer
from tests.zoo.planting import Call, Fault, Patch
from tests.zoo.subjects import Subject


def _with_a_state_left_over(call: Call) -> Array:
    """The state begins as what the same text has left in it."""
    state = traits_of(call.node).state
    assert state is not None
    _, after = state.advance(call.operands, call.node.attrs, None)
    value, _ = state.advance(call.operands, call.node.attrs, after)
    return np.asarray(value, np.float32)


def _one_late(call: Call) -> Array:
    """What the convolution reads is a position late."""
    x, *weights = call.operands
    return call.compute([np.concatenate([np.zeros_like(x[:1]), x[:-1]]), *weights])


def _one_early(call: Call) -> Array:
    """What the convolution reads is a position early, and so of later positions."""
    x, *weights = call.operands
    return call.compute([np.concatenate([x[1:], np.zeros_like(x[:1])]), *weights])


def _other_part(by: int) -> Patch:
    """Columns of the part so many parts further on."""

    def patch(call: Call) -> Array:
        start, stop = call.node.attr_int("start"), call.node.attr_int("stop")
        return call.compute(start=start + by * (stop - start), stop=stop + by * (stop - start))

    return patch


def _without_correction(call: Call) -> Array:
    """Plain linear attention: v is added to the state, whatever the state gives for k already."""
    q, k, v, decay, beta = call.operands
    heads, keys = decay.shape[1], call.node.attr_int("key_heads")
    q, k = (x.reshape(len(x), keys, -1).repeat(heads // keys, axis=1) for x in (q, k))
    values, state, rows = v.reshape(len(v), heads, -1), 0.0, []
    for position in range(len(v)):
        added = k[position][:, :, None] * (values[position] * beta[position][:, None])[:, None, :]
        state = state * np.exp(decay[position])[:, None, None] + added
        rows.append((state * q[position][:, :, None]).sum(axis=1).reshape(-1) * float(call.node.attrs["scale"]))  # type: ignore[arg-type]
    return np.array(rows, np.float32)


def _shares_keys(subject: Subject, layer: int) -> bool:
    node = subject.graph[f"layer{layer}.delta_rule"]
    return 1 < node.attr_int("key_heads") < int(subject.graph.operands(node.name)[3].type.dims[1])


FAULTS = (
    Fault(
        "state of another text",
        "kernel",
        "A delta net begins with the state that an earlier text left.",
        each_layer({"delta_rule": _with_a_state_left_over}, "delta_rule"),
    ),
    Fault(
        "convolution of another text",
        "kernel",
        "A short convolution begins with the rows that an earlier text left.",
        each_layer({"conv_out": _with_a_state_left_over}, "conv_out"),
    ),
    Fault(
        "convolution shifted",
        "kernel",
        "A short convolution reads each position a position late.",
        each_layer({"conv_out": _one_late}, "conv_out"),
    ),
    Fault(
        "convolution reversed",
        "kernel",
        "A short convolution has its weights in the other order.",
        each_layer({"conv_out": reading(1, lambda call: call.operands[1][:, ::-1])}, "conv_out"),
    ),
    Fault(
        "convolution of what follows",
        "kernel",
        "A short convolution reads each position a position early, and so looks at what follows.",
        each_layer({"conv_out": _one_early}, "conv_out"),
    ),
    Fault(
        "gate before the convolution missing",
        "graph",
        "A gated short convolution reads x as it is.",
        each_layer({"conv_bx": lambda call: call.operands[1]}, "conv_bx"),
    ),
    Fault(
        "gate behind the convolution missing",
        "graph",
        "What a gated short convolution gives goes on without its gate.",
        each_layer({"conv_gated": lambda call: call.operands[1]}, "conv_gated"),
    ),
    Fault(
        "gates of the convolution exchanged",
        "graph",
        "A gated short convolution takes the gate of what it gives for that of what it reads, and the reverse.",
        each_layer({"conv_b": _other_part(1), "conv_c": _other_part(-1)}, "conv_bx", "conv_gated"),
    ),
    Fault(
        "decay missing",
        "kernel",
        "A delta net keeps all of its state.",
        each_layer({"delta_rule": reading(3, lambda call: np.zeros_like(call.operands[3]))}, "delta_rule"),
    ),
    Fault(
        "correction missing",
        "kernel",
        "A delta net adds v to its state without taking off what the state gives already.",
        each_layer({"delta_rule": _without_correction}, "delta_rule"),
    ),
    Fault(
        "keys shared otherwise",
        "kernel",
        "Heads of v take their key from the heads in turn, in place of neighbours from one, or the reverse.",
        each_layer(
            {"delta_rule": lambda call: call.compute(tiled=not call.node.attrs.get("tiled", False))}, "delta_rule", when=_shares_keys
        ),
    ),
    Fault(
        "keys of any length",
        "graph",
        "q and k of a delta net are not made of length 1.",
        each_layer({"delta_k": left_out}, "delta_k"),
    ),
    Fault(
        "another gate of the delta net",
        "graph",
        "The gate behind a delta net is a sigmoid.",
        each_layer({"delta_gate_open": lambda call: call.compute_as("sigmoid", call.operands)}, "delta_gated"),
    ),
    Fault(
        "gate of attention missing",
        "graph",
        "What attention gives goes on without its gate.",
        each_layer({"attn_gated": left_out}, "attn_gated"),
    ),
)
