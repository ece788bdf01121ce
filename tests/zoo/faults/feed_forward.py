"""Faults of feed-forward networks, dense and inside experts."""

from __future__ import annotations

import math

import numpy as np

from aprgraph.graph.ops import Array
from tests.zoo.faults.patches import then, through, with_attrs
from tests.zoo.faults.places import MULTIPLICATION, Sites, each_layer, each_layer_weight, either, having
from tests.zoo.planting import Call, Fault, Patch, Stored
from tests.zoo.subjects import Subject

_ACTIVATIONS = ("gelu", "relu_squared", "xielu")
_ERF = np.vectorize(math.erf)


def _activation(patch: Patch, of: str | None = None) -> Sites:
    """The activation: inside the experts, where there are any. ``of`` an op, where it is that."""

    def at(name: str, stage: str) -> Sites:
        return each_layer({name: patch}, stage, when=lambda subject, layer: of in (None, subject.graph[f"layer{layer}.{name}"].op))

    ungated = each_layer({"ffn_swigl": patch}, "ffn_swigl", when=lambda subject, layer: _is_ungated(subject, layer, of))
    return either(at("moe_expert_activated", "moe_expert_swigl"), at("ffn_silu", "ffn_silu"), ungated)


def _is_ungated(subject: Subject, layer: int, of: str | None = None) -> bool:
    """Whether what goes into the down projection is an activation, of the op ``of`` if it is given."""
    op = subject.graph[f"layer{layer}.ffn_swigl"].op
    return op in _ACTIVATIONS and of in (None, op)


def _product(patch: Patch, of: str = "mul") -> Sites:
    """The product of act(gate) and up, where it is the op ``of``: inside the experts, where there are any."""

    def at(name: str) -> Sites:
        return each_layer({name: patch}, name, when=lambda subject, layer: subject.graph[f"layer{layer}.{name}"].op == of)

    return either(at("moe_expert_swigl"), at("ffn_swigl"))


def _other_activation(call: Call) -> Array:
    return call.compute_as("gelu" if call.node.op == "silu" else "silu", call.operands)


def _exchanged_numbers(call: Call) -> Array:
    return call.compute(alpha_p=call.node.attr_float("alpha_n"), alpha_n=call.node.attr_float("alpha_p"))


def _exact_gelu(call: Call) -> Array:
    x = call.operands[0].astype(np.float64)
    return np.asarray(x / 2 * (1 + _ERF(x / math.sqrt(2))))


def _of(tensor: str) -> Patch:
    """The projection of the same rows by the other tensor."""
    return lambda call: call.compute([*call.operands[:-1], call.subject.weight(f"blk.{call.node.layer}.{tensor}")])


def _halves_swapped(stored: Stored) -> Array:
    half = len(stored.right) // 2
    return np.concatenate([stored.right[half:], stored.right[:half]])


def _tile_tail(value: Array) -> Array:
    """A kernel that computes four positions at a time, and forgets those that are left."""
    cut = value.copy()
    cut[len(cut) // 4 * 4 :] = 0.0
    return cut


def _every_other(call: Call) -> Array:
    """Of the columns of gate and up, which lie one after the other, every second one."""
    return call.operands[0][:, int(call.node.attr_int("start") > 0) :: 2]


def _in_turn(stored: Stored) -> Array:
    """Rows of gate and up, one after the other, of which every second one is taken."""
    is_gate = "ffn_gate" in stored.info.name
    other = stored.subject.weight(
        stored.info.name.replace("ffn_gate", "ffn_up") if is_gate else stored.info.name.replace("ffn_up", "ffn_gate")
    )
    both = [stored.right, other] if is_gate else [other, stored.right]
    return np.concatenate(both, axis=-2)[..., 0 if is_gate else 1 :: 2, :]


FAULTS = (
    Fault(
        "gate and up swapped",
        "weights",
        "The gate projection has the weights of up, and the reverse.",
        either(
            *(
                each_layer(
                    {f"moe_expert_gate{node}": _of("ffn_up_exps.weight"), f"moe_expert_up{node}": _of("ffn_gate_exps.weight")},
                    "moe_expert_gate",
                    "moe_expert_up",
                )
                for node in MULTIPLICATION
            ),
            each_layer(
                {"ffn_gate": _of("ffn_up.weight"), "ffn_up": _of("ffn_gate.weight")},
                "ffn_gate",
                "ffn_up",
                when=lambda s, layer: s.graph[f"layer{layer}.ffn_gate"].op == "linear",
            ),
            each_layer_weight(("ffn_up.weight",), _halves_swapped, "ffn_gate", "ffn_up", when=having("ffn_gate")),
        ),
    ),
    Fault(
        "gate and up in turn",
        "weights",
        "Rows of gate and up are read as if they lay in turn, where all of gate come first.",
        either(
            each_layer_weight(("ffn_gate_exps.weight", "ffn_up_exps.weight"), _in_turn, "moe_expert_gate", "moe_expert_up"),
            each_layer_weight(("ffn_gate.weight", "ffn_up.weight"), _in_turn, "ffn_gate", "ffn_up"),
            each_layer(dict.fromkeys(("ffn_gate", "ffn_up"), _every_other), "ffn_gate", "ffn_up", when=having("ffn_gate_up")),
        ),
        families=("llama", "phi3", "glm4", "mixtral", "gpt-oss"),  # each way in which a file has them
        seen="vllm-project/vllm#27024",
    ),
    Fault("another activation", "graph", "GELU for SiLU, or the reverse.", _activation(_other_activation)),
    Fault(
        "exact GELU",
        "kernel",
        "GELU by erf, where the model has the approximation with tanh.",
        _activation(_exact_gelu, of="gelu"),
        seen="google/gemma_pytorch#37",
    ),
    Fault("no activation", "graph", "The gate is taken as it is.", _activation(lambda call: call.operands[0])),
    Fault("up forgotten", "graph", "act(gate) is not multiplied by up.", _product(lambda call: call.operands[0])),
    Fault(
        "xIELU's numbers exchanged",
        "graph",
        "What is learnt for above 0 is used below, and the reverse.",
        _activation(_exchanged_numbers, of="xielu"),
    ),
    Fault(
        "clamps forgotten",
        "graph",
        "Gate and up are not clamped.",
        _product(with_attrs(limit=1e30), of="clamped_swiglu"),
        variants=("large activations",),
    ),
    Fault(
        "factor of the sigmoid forgotten",
        "graph",
        "The gate goes through sigmoid(g) in place of sigmoid(1.702 · g).",
        _product(with_attrs(alpha=1.0), of="clamped_swiglu"),
    ),
    Fault(
        "float16 overflow",
        "kernel",
        "act(gate) · up is stored as float16: Inf beyond 65504.",
        _product(through(np.float16)),
        variants=("large activations",),
        seen="ggml-org/llama.cpp#27016",
    ),
    Fault(
        "tail of a tile",
        "kernel",
        "A kernel of four positions at a time leaves out those that are left.",
        either(each_layer({"moe_ffn_out": then(_tile_tail)}, "moe_ffn_out"), each_layer({"ffn_out": then(_tile_tail)}, "ffn_out")),
    ),
)
