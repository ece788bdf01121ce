"""The ops, each declared once. ``OPS`` is the table that the verifier, the interpreter and the kernels go by."""

from __future__ import annotations

from collections.abc import Mapping

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Attr, Graph, Node, TensorType
from aprgraph.graph.ops.altup import ALTUP_CORRECT, ALTUP_PREDICT, MATCH_RMS, STREAM_ADD, STREAM_MEAN
from aprgraph.graph.ops.attention import ATTENTION, ATTN_MIX, ATTN_SCORES, ATTN_SOFTMAX
from aprgraph.graph.ops.base import Array, Op
from aprgraph.graph.ops.bias_add import BIAS_ADD, ROW_ADD
from aprgraph.graph.ops.delta_rule import DELTA_RULE
from aprgraph.graph.ops.elementwise import (
    ADD,
    CLAMP,
    CLAMPED_SWIGLU,
    GELU,
    GELU_ERF,
    MUL,
    RELU_SQUARED,
    SCALE,
    SCALE_ROWS,
    SIGMOID,
    SILU,
    SOFT_CAP,
    SOFTPLUS,
    TANH,
    XIELU,
)
from aprgraph.graph.ops.experts import EXPERT_BIAS_ADD, EXPERT_INPUTS, EXPERT_LINEAR, EXPERT_SCALE, EXPERT_SUM
from aprgraph.graph.ops.flash_attention import FLASH_ATTENTION
from aprgraph.graph.ops.gaussian_top_k import GAUSSIAN_TOP_K
from aprgraph.graph.ops.gelu_half import GELU_HALF
from aprgraph.graph.ops.heads import HEAD_LINEAR, JOIN_HEADS
from aprgraph.graph.ops.kv_cache import CACHE
from aprgraph.graph.ops.l2_norm import L2_NORM
from aprgraph.graph.ops.layer_norm import LAYER_NORM
from aprgraph.graph.ops.linear import LINEAR
from aprgraph.graph.ops.lookup import COLUMNS, EMBED, FIRST_ROW, LAST_ROW, MEAN_ROWS
from aprgraph.graph.ops.query_temperature import QUERY_TEMPERATURE
from aprgraph.graph.ops.rms_norm import RMS_NORM
from aprgraph.graph.ops.rope import CONTEXT_CHOICE, ROPE, ROPE_ANGLES
from aprgraph.graph.ops.rope_chained import ROPE_ANGLES_CHAINED
from aprgraph.graph.ops.rounded_linear import ROUNDED_LINEAR
from aprgraph.graph.ops.rounding import ROUND, ROUND_SUM_ERRORS
from aprgraph.graph.ops.router import ROUTER_WEIGHTS, TOP_K
from aprgraph.graph.ops.scale_columns import SCALE_COLUMNS
from aprgraph.graph.ops.short_conv import SHORT_CONV
from aprgraph.graph.ops.softmax import SOFTMAX
from aprgraph.graph.ops.sources import INPUT, RECEIVED, RECORDED, WEIGHT
from aprgraph.graph.ops.sparse_mixer import SPARSE_MIXER
from aprgraph.graph.ops.ssm_scan import SSM_SCAN
from aprgraph.graph.ops.tap import TAP
from aprgraph.graph.ops.traits import NO_TRAITS, Role, Traits

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        INPUT, WEIGHT, RECORDED, RECEIVED, EMBED, COLUMNS, LAST_ROW, FIRST_ROW, MEAN_ROWS, LINEAR, BIAS_ADD, ROW_ADD,
        RMS_NORM, LAYER_NORM, CONTEXT_CHOICE, ROPE_ANGLES, ROPE,
        JOIN_HEADS, HEAD_LINEAR, QUERY_TEMPERATURE, CACHE,
        ATTN_SCORES, ATTN_SOFTMAX, ATTN_MIX, ATTENTION, ADD, MUL, SILU, GELU, GELU_ERF, SIGMOID, SCALE_ROWS,
        SCALE, SOFT_CAP, TANH, CLAMP, CLAMPED_SWIGLU, RELU_SQUARED, XIELU, SOFTPLUS, SCALE_COLUMNS, L2_NORM, SHORT_CONV, DELTA_RULE,
        SSM_SCAN,
        ALTUP_PREDICT, ALTUP_CORRECT, STREAM_ADD, STREAM_MEAN, MATCH_RMS, GAUSSIAN_TOP_K,
        SOFTMAX, TOP_K, ROUTER_WEIGHTS, SPARSE_MIXER, EXPERT_INPUTS, EXPERT_LINEAR, EXPERT_BIAS_ADD, EXPERT_SCALE, EXPERT_SUM, TAP,
        ROUND, ROUND_SUM_ERRORS, ROUNDED_LINEAR, ROPE_ANGLES_CHAINED, GELU_HALF, FLASH_ATTENTION,
    )
}  # fmt: skip


def complete_attrs(node: Node) -> Mapping[str, Attr]:
    """The attributes of a node, with the defaults of those that its graph leaves out."""
    return {**(OPS[node.op].defaults if node.op in OPS else {}), **node.attrs}


def traits_of(node: Node) -> Traits:
    """The traits of a node's op; none of an op that the table lacks, which a graph may name until it is verified."""
    return traits_named(node.op)


def traits_named(op: str) -> Traits:
    """The traits of the op of a name; none of one that the table lacks."""
    declared = OPS.get(op)
    return NO_TRAITS if declared is None else declared.traits


def is_weight(node: Node) -> bool:
    """Whether the node is a tensor of the model file."""
    return traits_of(node).role is Role.WEIGHT


def is_input(node: Node) -> bool:
    """Whether the node is something that a run is given: token ids or positions."""
    return traits_of(node).role is Role.INPUT


def is_received(node: Node) -> bool:
    """Whether another part of a split graph computes the node's value."""
    return traits_of(node).role is Role.RECEIVED


def is_tap(node: Node) -> bool:
    """Whether the node saves its operand."""
    return traits_of(node).role is Role.TAP


def is_computed(node: Node) -> bool:
    """Whether a kernel gives the node's value."""
    return traits_of(node).role is Role.COMPUTED


def has_state(node: Node) -> bool:
    """Whether the node remembers something from pass to pass."""
    return traits_of(node).state is not None


def weights_of(graph: Graph) -> list[Node]:
    """The weights of a graph, in execution order."""
    return [node for node in graph if is_weight(node)]


def taps_of(graph: Graph) -> list[Node]:
    """The taps of a graph, in execution order."""
    return [node for node in graph if is_tap(node)]


def is_own_state(node: Node) -> bool:
    """Whether the node's value is what it remembers: one tensor, as in a KV cache."""
    state = traits_of(node).state
    return state is not None and state.is_result


def states_of(graph: Graph) -> list[Node]:
    """The nodes of a graph with a state, in execution order."""
    return [node for node in graph if has_state(node)]


def state_type(graph: Graph, node: Node) -> TensorType:
    """The type of what a node with a state remembers, with t for positions where that grows. Raises GraphError for another node."""
    state = traits_of(node).state
    if state is None:
        raise GraphError(f"%{node.name}: {node.op} has no state")
    return state.type_of(node.type, [operand.type for operand in graph.operands(node.name)], node.attrs)


def operand_named(graph: Graph, node: Node, name: str) -> Node:
    """The operand of a node that the declaration of its op calls ``name``: of one that may be repeated, the first."""
    return graph.operands(node.name)[OPS[node.op].index(name)]


__all__ = [
    "OPS",
    "Array",
    "Op",
    "Role",
    "Traits",
    "complete_attrs",
    "has_state",
    "is_computed",
    "is_input",
    "is_own_state",
    "is_received",
    "is_tap",
    "is_weight",
    "operand_named",
    "state_type",
    "states_of",
    "taps_of",
    "traits_named",
    "traits_of",
    "weights_of",
]
