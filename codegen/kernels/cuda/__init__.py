"""CUDA kernels by op. ``KERNELS`` is the table that a kernel library is built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda import (
    attention,
    bias_add,
    cache,
    elementwise,
    experts,
    linear,
    lookup,
    rms_norm,
    rope,
    router,
)

#: A kernel makes the TVM function that launches what computes a request; the function takes the operands, then the result.
Kernel = Callable[[KernelRequest], Any]

KERNELS: dict[str, Kernel] = {
    "embed": lookup.embed,
    "linear": linear.linear,
    "bias_add": bias_add.bias_add,
    "rms_norm": rms_norm.rms_norm,
    "rope_angles": rope.rope_angles,
    "rope": rope.rope,
    "columns": lookup.columns,
    "last_row": lookup.last_row,
    "add": elementwise.add,
    "mul": elementwise.mul,
    "silu": elementwise.silu,
    "gelu": elementwise.gelu,
    "sigmoid": elementwise.sigmoid,
    "scale_rows": elementwise.scale_rows,
    "cache": cache.cache,
    "attn_scores": attention.attn_scores,
    "attn_softmax": attention.attn_softmax,
    "attn_mix": attention.attn_mix,
    "attention": attention.attention,
    "top_k": router.top_k,
    "router_weights": router.router_weights,
    "expert_linear": experts.expert_linear,
    "expert_sum": experts.expert_sum,
}

__all__ = ["KERNELS", "Kernel"]
