"""CUDA kernels by op. ``KERNELS`` is the table that a kernel library is built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda import attention, experts, linear, rows

#: A kernel makes the TVM function that launches what computes a request; the function takes the operands, then the result.
Kernel = Callable[[KernelRequest], Any]

KERNELS: dict[str, Kernel] = {
    "embed": linear.embed,
    "linear": linear.linear,
    "bias_add": rows.bias_add,
    "rms_norm": rows.rms_norm,
    "rope_angles": rows.rope_angles,
    "rope": rows.rope,
    "columns": rows.columns,
    "last_row": rows.last_row,
    "add": rows.add,
    "mul": rows.mul,
    "silu": rows.silu,
    "gelu": rows.gelu,
    "sigmoid": rows.sigmoid,
    "scale_rows": rows.scale_rows,
    "cache": rows.cache,
    "attn_scores": attention.attn_scores,
    "attn_softmax": attention.attn_softmax,
    "attn_mix": attention.attn_mix,
    "attention": attention.attention,
    "top_k": experts.top_k,
    "router_weights": experts.router_weights,
    "expert_linear": experts.expert_linear,
    "expert_sum": experts.expert_sum,
}

__all__ = ["KERNELS", "Kernel"]
