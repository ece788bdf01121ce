"""Faults of recurrent layers and of attention with a gate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aprgraph.graph.ops import Array, traits_of
from aprgraph.graph.ops.delta_rule import key_heads_of
from tests.zoo.faults.patches import left_out, reading
from tests.zoo.faults.places import each_layer, either, having
from tests.zoo.planting import Call, Fault, Patch
from tests.zoo.subjects import Subject

#: The nodes of layers with a state that fades; both have the decay as their fourth operand.
_SCANS = ("delta_rule", "ssm_scan")
#: The place of the rates of decay among the operands of a scan.
_RATES = 6


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
    own = key_heads_of(heads, call.node.attrs)
    q, k = (x.reshape(len(x), keys, -1)[:, own] for x in (q, k))
    values, state, rows = v.reshape(len(v), heads, -1), 0.0, []
    for position in range(len(v)):
        added = k[position][:, :, None] * (values[position] * beta[position][:, None])[:, None, :]
        state = state * np.exp(decay[position])[:, None, None] + added
        rows.append((state * q[position][:, :, None]).sum(axis=1).reshape(-1) * float(call.node.attrs["scale"]))  # type: ignore[arg-type]
    return np.array(rows, np.float32)


def _heads_in_turn(call: Call) -> Array:
    """Heads take their B and C from the groups in turn, in place of neighbours from one."""
    x, b, c, decay, step, skip = call.operands
    heads = decay.shape[1]
    order = np.arange(heads).reshape(-1, call.node.attr_int("groups")).T.reshape(-1)  # those that are to share a group, side by side
    moved = x.reshape(len(x), heads, -1)[:, order].reshape(x.shape)
    result = call.compute([moved, b, c, decay[:, order], step[:, order], skip[order]]).reshape(len(x), heads, -1)
    return np.ascontiguousarray(result[:, np.argsort(order)].reshape(x.shape))


def _has_groups(subject: Subject, layer: int) -> bool:
    node = subject.graph[f"layer{layer}.ssm_scan"]
    return 1 < node.attr_int("groups") < int(subject.graph.operands(node.name)[3].type.dims[1])


def _has_rates(subject: Subject, layer: int) -> bool:
    return len(subject.graph.operand_names(f"layer{layer}.ssm_scan")) > _RATES


def _discretised_exactly(call: Call) -> Array:
    """B is multiplied by (exp(step · A) - 1) / A, as a zero-order hold has it, in place of the step."""
    x, b, c, _, step, skip, rates = call.operands
    state, rows = np.zeros_like(rates), []
    for position in range(len(x)):
        kept = np.exp(step[position][:, None] * rates)
        state = kept * state + (kept - 1) / rates * b[position] * x[position][:, None]
        rows.append(state @ c[position] + skip * x[position])
    return np.array(rows, np.float32)


def _columns_from(start: Callable[[int, int], int]) -> Patch:
    """As many columns from another one on: ``start`` of the size of B and of all columns."""

    def patch(call: Call) -> Array:
        whole, inner = call.operands[0].shape[1], call.node.attr_int("stop") - call.node.attr_int("start")
        first = start(call.subject.model.family.state_size, whole)  # type: ignore[attr-defined]  # of a state space
        return call.compute(start=first, stop=first + inner)

    return patch


def _normalises_groups(subject: Subject, layer: int) -> bool:
    return subject.graph[f"layer{layer}.ssm_norm"].attr_int("groups") > 1


def _has_no_norm(subject: Subject, layer: int) -> bool:
    return f"layer{layer}.ssm_norm" not in subject.graph


def _has_conv_bias(subject: Subject, layer: int) -> bool:
    return len(subject.graph.operand_names(f"layer{layer}.conv_out")) > 2


def _shares_keys(subject: Subject, layer: int) -> bool:
    node = subject.graph[f"layer{layer}.delta_rule"]
    return 1 < node.attr_int("key_heads") < int(subject.graph.operands(node.name)[3].type.dims[1])


FAULTS = (
    Fault(
        "state of another text",
        "kernel",
        "A recurrent layer begins with the state that an earlier text left.",
        either(*(each_layer({name: _with_a_state_left_over}, name) for name in _SCANS)),
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
        "A recurrent layer keeps all of its state.",
        either(*(each_layer({name: reading(3, lambda call: np.zeros_like(call.operands[3]))}, name) for name in _SCANS)),
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
    Fault(
        "bias of the convolution missing",
        "weights",
        "A short convolution leaves its bias out.",
        each_layer({"conv_out": lambda call: call.compute(call.operands[:2])}, "conv_out", when=_has_conv_bias),
    ),
    Fault(
        "activation behind the convolution missing",
        "graph",
        "What a short convolution gives goes on as it is.",
        each_layer({"conv_silu": left_out}, "conv_silu"),
    ),
    Fault(
        "bias of the time step missing",
        "weights",
        "The time step of a state space leaves its bias out.",
        each_layer({"ssm_dt_biased": left_out}, "ssm_step"),
    ),
    Fault(
        "time step without softplus",
        "graph",
        "The time step of a state space is taken as it is, also below 0.",
        each_layer({"ssm_step": left_out}, "ssm_step"),
    ),
    Fault(
        "sign of A",
        "weights",
        "The state of a state space grows as fast as it should fade.",
        each_layer({"ssm_scan": reading(3, lambda call: -call.operands[3])}, "ssm_scan"),
    ),
    Fault(
        "x not scaled by the time step",
        "kernel",
        "A state space adds x to its state whatever the time step.",
        each_layer({"ssm_scan": reading(4, lambda call: np.ones_like(call.operands[4]))}, "ssm_scan"),
    ),
    Fault(
        "D missing",
        "weights",
        "What a state space gives lacks x times its own weight.",
        each_layer({"ssm_scan": reading(5, lambda call: np.zeros_like(call.operands[5]))}, "ssm_scan"),
    ),
    Fault(
        "B and C exchanged",
        "graph",
        "A state space writes along C and reads along B.",
        each_layer(
            {"ssm_scan": lambda call: call.compute([call.operands[index] for index in (0, 2, 1, *range(3, len(call.operands)))])},
            "ssm_scan",
        ),
    ),
    Fault(
        "A taken for its logarithm",
        "weights",
        "A of a GGUF file goes through -exp, as A_log of a checkpoint has to.",
        each_layer({"ssm_scan": reading(_RATES, lambda call: -np.exp(call.operands[_RATES]))}, "ssm_scan", when=_has_rates),
    ),
    Fault(
        "A read across",
        "kernel",
        "A is read as if it had its columns one after the other.",
        each_layer(
            {"ssm_scan": reading(_RATES, lambda call: call.operands[_RATES].reshape(call.operands[_RATES].shape[::-1]).T)},
            "ssm_scan",
            when=_has_rates,
        ),
    ),
    Fault(
        "B discretised exactly",
        "kernel",
        "B is multiplied by (exp(step · A) - 1) / A, as the paper of Mamba writes it, in place of the step.",
        each_layer({"ssm_scan": _discretised_exactly}, "ssm_scan", when=_has_rates),
    ),
    Fault(
        "gate in front of x",
        "graph",
        "The projection into a state space is split as in Mamba 2, where the gate comes first.",
        each_layer({"ssm_gate": _other_part(-1), "conv_in": _other_part(1)}, "ssm_gate", "conv_in", when=having("ssm_dt_b_c")),
    ),
    Fault(
        "B and C in front of the time step",
        "graph",
        "What time steps, B and C are made of is split in another order.",
        each_layer(
            {
                "ssm_dt": _columns_from(lambda size, _: 2 * size),
                "ssm_b": _columns_from(lambda *_: 0),
                "ssm_c": _columns_from(lambda size, _: size),
            },
            "ssm_dt_norm",
            "ssm_b_norm",
            "ssm_c_norm",
            when=having("ssm_dt_norm"),
        ),
    ),
    Fault(
        "norms of time step, B and C missing",
        "graph",
        "Falcon Mamba runs as Mamba, without these norms.",
        each_layer(
            {f"ssm_{part}_norm": left_out for part in ("dt", "b", "c")},
            "ssm_dt_norm",
            "ssm_b_norm",
            "ssm_c_norm",
            when=having("ssm_dt_norm"),
        ),
    ),
    Fault(
        "groups shared otherwise",
        "kernel",
        "Heads of a state space take B and C from the groups in turn, in place of neighbours from one.",
        each_layer({"ssm_scan": _heads_in_turn}, "ssm_scan", when=_has_groups),
    ),
    Fault(
        "gate of the state space missing",
        "graph",
        "What a state space gives goes on without its gate.",
        either(
            each_layer({"ssm_gated": left_out}, "ssm_norm", when=having("ssm_norm")),
            each_layer({"ssm_gated": left_out}, "ssm_gated", when=_has_no_norm),
        ),
    ),
    Fault(
        "norm over all groups",
        "kernel",
        "The norm behind a state space takes one root mean square for all groups.",
        each_layer(
            {"ssm_norm": lambda call: call.compute([call.operands[0], call.operands[1].reshape(-1)], groups=1)},
            "ssm_norm",
            when=_normalises_groups,
        ),
    ),
)
