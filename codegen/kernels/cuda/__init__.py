"""CUDA kernels by op. ``find_kernel`` is where a kernel library has them from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda import (
    altup,
    attention,
    bias_add,
    delta_rule,
    elementwise,
    experts,
    flash_attention,
    gaussian_top_k,
    heads,
    kv_cache,
    l2_norm,
    layer_norm,
    linear,
    lookup,
    query_temperature,
    rms_norm,
    rope,
    rounding,
    router,
    scale_columns,
    short_conv,
    softmax,
    sparse_mixer,
    ssm_scan,
)
from aprgraph.graph.arguments import TARGET
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.formula import Elementwise

#: A kernel makes the TVM function that launches what computes a request; it takes the operands, then the result.
Kernel = Callable[[KernelRequest], Any]

#: Those of all ops but the elementwise ones, which share a kernel.
KERNELS: dict[str, Kernel] = {
    "embed": lookup.embed,
    "linear": linear.linear,
    "bias_add": bias_add.bias_add,
    "row_add": bias_add.row_add,
    "rms_norm": rms_norm.rms_norm,
    "layer_norm": layer_norm.layer_norm,
    "rope_angles": rope.rope_angles,
    "rope": rope.rope,
    "query_temperature": query_temperature.query_temperature,
    "columns": lookup.columns,
    "last_row": lookup.last_row,
    "first_row": lookup.first_row,
    "mean_rows": lookup.mean_rows,
    "join_heads": heads.join_heads,
    "head_linear": heads.head_linear,
    "cache": kv_cache.cache,
    "attn_scores": attention.attn_scores,
    "attn_softmax": attention.attn_softmax,
    "attn_mix": attention.attn_mix,
    "attention": attention.attention,
    "softmax": softmax.softmax,
    "top_k": router.top_k,
    "router_weights": router.router_weights,
    "sparse_mixer": sparse_mixer.sparse_mixer,
    "expert_inputs": experts.expert_inputs,
    "expert_linear": experts.expert_linear,
    "expert_bias_add": experts.expert_bias_add,
    "expert_scale": experts.expert_scale,
    "expert_sum": experts.expert_sum,
    "short_conv": short_conv.short_conv,
    "delta_rule": delta_rule.delta_rule,
    "ssm_scan": ssm_scan.ssm_scan,
    "l2_norm": l2_norm.l2_norm,
    "scale_columns": scale_columns.scale_columns,
    "round": rounding.round_values,
    "round_sum_errors": rounding.round_sum_errors,
    "rope_angles_chained": rope.rope_angles_chained,
    "gelu_half": elementwise.gelu_by_table,
    "flash_attention": flash_attention.flash_attention,
    "altup_predict": altup.altup_predict,
    "altup_correct": altup.altup_correct,
    "stream_add": altup.stream_add,
    "stream_mean": altup.stream_mean,
    "match_rms": altup.match_rms,
    "gaussian_top_k": gaussian_top_k.gaussian_top_k,
}


def find_kernel(op: str) -> Kernel:
    """The kernel of the op ``op``. Raises GraphError that lists those there are."""
    if isinstance(OPS.get(op), Elementwise):
        return elementwise.elementwise
    if op not in KERNELS:
        raise GraphError(
            f"no CUDA kernel for the op {op!r}; there are kernels for {', '.join(KERNELS)}, and for elementwise ops; none is needed with ",
            TARGET.given("reference", "'reference'"),
        )
    return KERNELS[op]


__all__ = ["KERNELS", "Kernel", "find_kernel"]
